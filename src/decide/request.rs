//! A question to an upstream server, as octets: how it is worded, and the one place that writes it.
//!
//! Invariant: a request is built anew from the question and a [`Wording`], never from a client's message: RD set, CD not (the
//! upstream is to validate), AD set (it is to tell whether it did, RFC 6840 §5.7), an OPT record of our own. Its UDP payload
//! size keeps answers below fragmentation (RFC 9715).

use corewall_sharding::name::{NAME_BYTES_MAX, Name};

use super::case::Spelling;
use super::cookie::{COOKIE_BYTES_MAX, ClientCookie, Cookie, ServerCookie};
use super::subnet::{NETWORK_BYTES_MAX, Network};
use super::wire::{WireName, rtype};
use crate::limits::{HEADER_BYTES, OPT_BYTES_MIN, UDP_PAYLOAD_BYTES_MAX, UDP_PAYLOAD_BYTES_MIN};

/// Bytes of the largest question we send.
pub const REQUEST_BYTES_MAX: usize =
    HEADER_BYTES + NAME_BYTES_MAX + 4 + OPT_BYTES_MIN + COOKIE_BYTES_MAX + NETWORK_BYTES_MAX;
const _: () = assert!(REQUEST_BYTES_MAX <= UDP_PAYLOAD_BYTES_MIN, "any server takes it");

/// How much of EDNS a request uses. A server that does not take one form is asked again in the next one (RFC 6891 §6.2.2),
/// which is plainer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// All options.
    #[default]
    Whole,
    /// Without the client's network, which some servers refuse to be told (RFC 7871 §7.1.3).
    WithoutNetwork,
    /// An OPT record, but no options.
    WithoutOptions,
    /// As in RFC 1035.
    WithoutEdns,
}

/// How one send is worded. Kept beside the send: the answer has to fit it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wording {
    /// How much of EDNS it uses.
    pub form: Form,
    /// The name's letter case.
    pub spelling: Spelling,
    /// Our cookie; none where cookies are turned off.
    pub cookie: Option<ClientCookie>,
    /// It bears the cookie that the server gave with a BADCOOKIE.
    pub is_cookie_retry: bool,
}

impl Wording {
    /// In lower case and without a cookie.
    pub const PLAIN: Wording =
        Wording { form: Form::Whole, spelling: Spelling::PLAIN, cookie: None, is_cookie_retry: false };

    /// The cookie as it was sent.
    pub fn sent_cookie(&self) -> Option<ClientCookie> {
        self.cookie.filter(|_| self.form < Form::WithoutOptions)
    }

    /// The network as it was sent.
    pub fn sent_network(&self, network: Option<Network>) -> Option<Network> {
        network.filter(|_| self.form == Form::Whole)
    }

    /// The next plainer form that leaves out anything which this one had; none when there is nothing left.
    pub fn plainer(&self, network: Option<Network>) -> Option<Form> {
        let has_network = self.sent_network(network).is_some_and(|network| network != Network::UNTOLD);
        match self.form {
            Form::WithoutEdns => None,
            Form::Whole | Form::WithoutNetwork if self.sent_cookie().is_some() || has_network => {
                Some(Form::WithoutOptions)
            }
            Form::Whole | Form::WithoutNetwork | Form::WithoutOptions => Some(Form::WithoutEdns),
        }
    }

    /// The name as it was sent, which the answer's question must repeat.
    pub fn spell(&self, name: &Name) -> WireName {
        let mut spelled = WireName::of(name);
        self.spelling.apply(spelled.as_wire_mut());
        spelled
    }
}

/// A question to one server.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Message id.
    pub id: u16,
    /// QNAME in lower case.
    pub name: &'a Name,
    /// QTYPE.
    pub qtype: u16,
    /// QCLASS.
    pub qclass: u16,
    /// DO.
    pub dnssec_ok: bool,
    /// How it is put.
    pub wording: Wording,
    /// The server's cookie, beside our own in the wording.
    pub server_cookie: Option<ServerCookie>,
    /// The client's network, where the group is told networks.
    pub network: Option<Network>,
}

impl Request<'_> {
    /// Writes it and returns its length; 0 when there is no room. No allocation, no panic.
    pub fn write(&self, out: &mut [u8]) -> usize {
        self.try_write(out).unwrap_or(0)
    }

    fn try_write(&self, out: &mut [u8]) -> Option<usize> {
        let has_edns = self.wording.form < Form::WithoutEdns;
        let name = self.name.as_wire();
        let (header, behind) = out.split_first_chunk_mut::<HEADER_BYTES>()?;
        let (name_place, behind) = behind.split_at_mut_checked(name.len())?;
        let (type_and_class, behind) = behind.split_first_chunk_mut::<4>()?;
        let [id_hi, id_lo] = self.id.to_be_bytes();
        *header = [id_hi, id_lo, 0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, u8::from(has_edns)];
        name_place.copy_from_slice(name);
        self.wording.spelling.apply(name_place);
        let [type_hi, type_lo] = self.qtype.to_be_bytes();
        let [class_hi, class_lo] = self.qclass.to_be_bytes();
        *type_and_class = [type_hi, type_lo, class_hi, class_lo];
        let question_bytes = HEADER_BYTES + name.len() + 4;
        if !has_edns {
            return Some(question_bytes);
        }
        let (opt, options) = behind.split_first_chunk_mut::<OPT_BYTES_MIN>()?;
        let options_bytes = self.put_options(options)?;
        let [opt_hi, opt_lo] = rtype::OPT.to_be_bytes();
        let [size_hi, size_lo] = (UDP_PAYLOAD_BYTES_MAX as u16).to_be_bytes();
        let [len_hi, len_lo] = (options_bytes as u16).to_be_bytes();
        *opt = [0, opt_hi, opt_lo, size_hi, size_lo, 0, 0, u8::from(self.dnssec_ok) << 7, 0, len_hi, len_lo];
        Some(question_bytes + OPT_BYTES_MIN + options_bytes)
    }

    /// Octets written; none when an option that is wanted finds no room.
    fn put_options(&self, out: &mut [u8]) -> Option<usize> {
        let mut bytes = 0;
        if let Some(client) = self.wording.sent_cookie() {
            let cookie = Cookie { client, server: self.server_cookie };
            bytes += Some(cookie.put(out)).filter(|written| *written > 0)?;
        }
        if let Some(network) = self.wording.sent_network(self.network).filter(|told| *told != Network::UNTOLD) {
            bytes += Some(network.put(out.get_mut(bytes..)?)).filter(|written| *written > 0)?;
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn longest() -> Name {
        [&*"a".repeat(63), &"b".repeat(63), &"c".repeat(63), &"d".repeat(61)].join(".").parse().unwrap()
    }

    fn request(name: &Name) -> Request<'_> {
        Request {
            id: 0x1234,
            name,
            qtype: 28,
            qclass: 1,
            dnssec_ok: true,
            wording: Wording::default(),
            server_cookie: None,
            network: None,
        }
    }

    /// Cookies of both sides and a network.
    fn laden(name: &Name) -> Request<'_> {
        let Cookie { client, server } = Cookie::read(b"clientckserver01").unwrap();
        let wording = Wording { cookie: Some(client), ..Wording::default() };
        let client = "192.0.2.7".parse().unwrap();
        let policy =
            crate::decide::subnet::SubnetPolicy { mode: crate::decide::subnet::SubnetMode::Set, ..Default::default() };
        Request { wording, server_cookie: server, network: policy.network(client, None), ..request(name) }
    }

    fn written(request: &Request<'_>) -> Vec<u8> {
        let mut out = [0xee; REQUEST_BYTES_MAX];
        let bytes = request.write(&mut out);
        assert!(out[bytes..].iter().all(|octet| *octet == 0xee), "nothing is written behind it");
        for room in 0..bytes {
            assert_eq!(request.write(&mut out[..room]), 0, "{room} of {bytes}");
        }
        request.write(&mut out);
        out[..bytes].to_vec()
    }

    const QUESTION: &[u8] = b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\x01\x01a\x07example\0\0\x1c\0\x01";

    #[test]
    fn a_request_is_a_question_with_an_opt_record_of_ours() {
        let name = "a.example".parse().unwrap();
        let opt = b"\0\0\x29\x04\xd0\0\0\x80\0\0\0".as_slice();
        assert_eq!(written(&request(&name)), [QUESTION, opt].concat());
        let without_do = Request { dnssec_ok: false, ..request(&name) };
        assert_eq!(written(&without_do), [QUESTION, b"\0\0\x29\x04\xd0\0\0\0\0\0\0"].concat());
    }

    #[test]
    fn options_are_written_as_far_as_the_form_has_them() {
        let name = "a.example".parse().unwrap();
        let mut request = laden(&name);
        let cookie = b"\0\x0a\0\x10clientckserver01".as_slice();
        let network = b"\0\x08\0\x07\0\x01\x18\0\xc0\0\x02".as_slice();
        let opt = |bytes: u8| [b"\0\0\x29\x04\xd0\0\0\x80\0\0".as_slice(), &[bytes]].concat();
        assert_eq!(written(&request), [QUESTION, &opt(31), cookie, network].concat());
        request.wording.form = Form::WithoutNetwork;
        assert_eq!(written(&request), [QUESTION, &opt(20), cookie].concat());
        request.wording.form = Form::WithoutOptions;
        assert_eq!(written(&request), [QUESTION, &opt(0)].concat());
        request.wording.form = Form::WithoutEdns;
        let mut plain = QUESTION.to_vec();
        plain[11] = 0;
        assert_eq!(written(&request), plain);
    }

    #[test]
    fn a_client_cookie_goes_alone_until_the_server_has_given_one() {
        let name = "a.example".parse().unwrap();
        let request = Request { server_cookie: None, network: Some(Network::UNTOLD), ..laden(&name) };
        assert!(written(&request).ends_with(b"\0\x0c\0\x0a\0\x08clientck"));
        let withheld = Request { network: Some(Network::WITHHELD), ..request };
        assert!(written(&withheld).ends_with(b"clientck\0\x08\0\x04\0\x01\0\0"));
    }

    #[test]
    fn each_form_leaves_out_something_that_was_there() {
        let forms = |network: Option<Network>, cookie: Option<ClientCookie>| {
            let mut wording = Wording { cookie, ..Wording::default() };
            let mut forms = Vec::new();
            while let Some(form) = wording.plainer(network) {
                wording.form = form;
                forms.push(form);
            }
            forms
        };
        let (cookie, network) = (Some(ClientCookie([7; 8])), laden(&Name::ROOT).network);
        let all = [Form::WithoutOptions, Form::WithoutEdns];
        assert_eq!(forms(network, cookie), all);
        assert_eq!(forms(None, cookie), all);
        assert_eq!(forms(network, None), all);
        assert_eq!(forms(Some(Network::WITHHELD), None), all);
        assert_eq!(forms(Some(Network::UNTOLD), None), all[1..]);
        assert_eq!(forms(None, None), all[1..]);
        let refused = Wording { form: Form::WithoutNetwork, ..Wording::default() };
        assert_eq!(refused.plainer(network), Some(Form::WithoutEdns));
    }

    #[test]
    fn the_name_is_spelled_at_random_and_the_same_again() {
        let name: Name = "www.example.com".parse().unwrap();
        let wording = Wording { spelling: Spelling::random(0x00ff_00f5), ..Wording::default() };
        let sent = written(&Request { wording, ..request(&name) });
        let place = HEADER_BYTES..HEADER_BYTES + name.as_wire().len();
        assert_eq!(&sent[place.clone()], wording.spell(&name).as_wire());
        assert_ne!(&sent[place.clone()], name.as_wire());
        assert!(sent[place].eq_ignore_ascii_case(name.as_wire()));
    }

    #[test]
    fn the_largest_request_has_the_longest_name_and_options() {
        let name = longest();
        let server = Cookie::read(&[7; 40]).unwrap();
        let client = "2001:db8:1:2:3:4:5:6".parse().unwrap();
        let mut request = laden(&name);
        let set =
            crate::decide::subnet::SubnetPolicy { mode: crate::decide::subnet::SubnetMode::Set, ..Default::default() };
        request.network = set.network(client, None);
        request.server_cookie = server.server;
        assert_eq!(written(&request).len(), REQUEST_BYTES_MAX);
    }
}

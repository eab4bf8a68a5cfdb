//! Cookies that our own clients are given (RFC 9018): computed, never stored, so that they cost no memory and every worker,
//! and every machine with the same secret, knows the cookies of the others.
//!
//! Invariant: a cookie that [`Secret::standing`] takes was made with this secret for this client cookie and address, within
//! the last hour (or, by a clock ahead of ours, for five minutes to come).

use std::net::IpAddr;

use siphasher::sip::SipHasher24;

use super::{CLIENT_COOKIE_BYTES, ClientCookie, Cookie, ServerCookie};

/// Octets of our cookies: version, reserved, timestamp, hash (RFC 9018 §4).
pub const ISSUED_COOKIE_BYTES: usize = 16;
/// VERSION of RFC 9018.
const VERSION: u8 = 1;
/// Seconds for which a cookie is taken (RFC 9018 §4.3).
const AGE_S_MAX: u32 = 3_600;
/// Seconds that a timestamp may lie ahead (RFC 9018 §4.3).
const AHEAD_S_MAX: u32 = 300;
/// Seconds from which on a cookie is replaced by a new one (RFC 9018 §4.3).
const AGE_S_FRESH: u32 = 1_800;

/// What cookies are made with.
#[derive(Clone)]
pub struct Secret(SipHasher24);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// What a client's server cookie is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Ours, and new enough to be given again.
    Fresh,
    /// Ours, but to be replaced.
    Old,
    /// None, too old, or not ours: the client may not be where its question says.
    Unproven,
}

impl Secret {
    /// From 128 bits that nobody else knows.
    pub fn new(key: &[u8; 16]) -> Self {
        Self(SipHasher24::new_with_key(key))
    }

    /// The cookie for a client, at `unix_s` seconds since 1970. On the hot path of clients that send a cookie.
    pub fn issue(&self, client: ClientCookie, address: IpAddr, unix_s: u32) -> [u8; ISSUED_COOKIE_BYTES] {
        let [t0, t1, t2, t3] = unix_s.to_be_bytes();
        self.with_hash(client, address, [VERSION, 0, 0, 0, t0, t1, t2, t3])
    }

    /// What a cookie is worth that the client sent beside its own.
    pub fn standing(&self, client: ClientCookie, server: &[u8], address: IpAddr, unix_s: u32) -> Standing {
        let Ok(server) = <&[u8; ISSUED_COOKIE_BYTES]>::try_from(server) else { return Standing::Unproven };
        let [version, r0, r1, r2, t0, t1, t2, t3, ..] = *server;
        if version != VERSION {
            return Standing::Unproven;
        }
        // Timestamps go round in 136 years (RFC 1982 arithmetic): the difference tells which is later.
        let age_s = unix_s.wrapping_sub(u32::from_be_bytes([t0, t1, t2, t3]));
        let is_ahead = age_s > u32::MAX / 2;
        let is_timely = if is_ahead { age_s.wrapping_neg() <= AHEAD_S_MAX } else { age_s <= AGE_S_MAX };
        // The reserved octets are hashed as they came: a later version of the scheme may use them (RFC 9018 §4.2).
        let expected = self.with_hash(client, address, [version, r0, r1, r2, t0, t1, t2, t3]);
        // The whole hash at once: no early end tells how many octets were guessed.
        let is_ours = u128::from_ne_bytes(expected) == u128::from_ne_bytes(*server);
        match (is_ours && is_timely, is_ahead || age_s <= AGE_S_FRESH) {
            (false, _) => Standing::Unproven,
            (true, true) => Standing::Fresh,
            (true, false) => Standing::Old,
        }
    }

    /// The option that a reply gives to a client which sent `asked`: the same one while it is new enough, else a new one,
    /// whatever the client's was worth (RFC 7873 §5.2). On the hot path of clients that send a cookie.
    pub fn answer(&self, asked: &Cookie, address: IpAddr, unix_s: u32) -> Cookie {
        let client = asked.client;
        match asked.server {
            Some(server) if self.standing(client, server.as_bytes(), address, unix_s) == Standing::Fresh => *asked,
            _ => Cookie { client, server: Some(ServerCookie::issued(self.issue(client, address, unix_s))) },
        }
    }

    /// Version, reserved octets and timestamp with the hash behind them (RFC 9018 §4.4).
    fn with_hash(&self, client: ClientCookie, address: IpAddr, head: [u8; 8]) -> [u8; ISSUED_COOKIE_BYTES] {
        let mut input = [0; CLIENT_COOKIE_BYTES + 8 + 16];
        let address = address.to_canonical();
        let (v4, v6);
        let address: &[u8] = match address {
            IpAddr::V4(address) => {
                v4 = address.octets();
                &v4
            }
            IpAddr::V6(address) => {
                v6 = address.octets();
                &v6
            }
        };
        let octets = client.0.iter().chain(&head).chain(address);
        let bytes = CLIENT_COOKIE_BYTES + head.len() + address.len();
        input.iter_mut().zip(octets).for_each(|(place, octet)| *place = *octet);
        let hash = self.0.hash(input.get(..bytes).unwrap_or(&input)).to_le_bytes();
        let mut cookie = [0; ISSUED_COOKIE_BYTES];
        cookie.iter_mut().zip(head.iter().chain(&hash)).for_each(|(place, octet)| *place = *octet);
        cookie
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets<const N: usize>(hex: &str) -> [u8; N] {
        assert_eq!(hex.len(), 2 * N);
        std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
    }

    /// A client's and a server's part in one, as RFC 9018 writes them.
    fn cookie(hex: &str) -> (ClientCookie, [u8; 16]) {
        (ClientCookie(octets(&hex[..16])), octets(&hex[16..]))
    }

    fn secret(hex: &str) -> Secret {
        Secret::new(&octets(hex))
    }

    const SECRET: &str = "e5e973e5a6b2a43f48e7dc849e37bfcf";

    #[test]
    fn the_examples_of_rfc_9018_come_out() {
        // A.1: a client learns its cookie, on Wed Jun  5 10:53:05 UTC 2019.
        let first: IpAddr = "198.51.100.100".parse().unwrap();
        let (client, given) = cookie("2464c4abcf10c957010000005cf79f111f8130c3eee29480");
        assert_eq!(secret(SECRET).issue(client, first, 1_559_731_985), given);
        // A.2: the same client 40 minutes later gets another one.
        let (_, renewed) = cookie("2464c4abcf10c957010000005cf7a871d4a564a1442aca77");
        assert_eq!(secret(SECRET).standing(client, &given, first, 1_559_734_385), Standing::Old);
        assert_eq!(secret(SECRET).issue(client, first, 1_559_734_385), renewed);
        // A.3: reserved octets that are not zero.
        let second: IpAddr = "203.0.113.203".parse().unwrap();
        let (client, sent) = cookie("fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5");
        let (_, renewed) = cookie("fc93fc62807ddb86010000005cf7a9acf73a7810aca2381e");
        assert_eq!(secret(SECRET).issue(client, second, 1_559_734_700), renewed);
        assert_eq!(secret(SECRET).standing(client, &sent, second, 0x5cf7_8f71 + 60), Standing::Fresh);
        // A.4: IPv6, and a secret that was changed in between.
        let third: IpAddr = "2001:db8:220:1:59de:d0f4:8769:82b8".parse().unwrap();
        let (client, sent) = cookie("22681ab97d52c298010000005cf7c57926556bd0934c72f8");
        let (_, renewed) = cookie("22681ab97d52c298010000005cf7c609a6bb79d16625507a");
        let (old, new) = (secret("dd3bdf9344b678b185a6f5cb60fca715"), secret("445536bcd2513298075a5d379663c962"));
        assert_eq!(old.standing(client, &sent, third, 1_559_741_961), Standing::Fresh);
        assert_eq!(new.standing(client, &sent, third, 1_559_741_961), Standing::Unproven);
        assert_eq!(new.issue(client, third, 1_559_741_961), renewed);
    }

    #[test]
    fn a_cookie_is_taken_for_an_hour_and_from_a_clock_five_minutes_ahead() {
        let (secret, address) = (secret(SECRET), "192.0.2.1".parse().unwrap());
        let client = ClientCookie(*b"clientck");
        for made in [1_000_000u32, 100, u32::MAX - 100] {
            let cookie = secret.issue(client, address, made);
            let at = |seconds: i32| secret.standing(client, &cookie, address, made.wrapping_add_signed(seconds));
            for (seconds, standing) in [
                (0, Standing::Fresh),
                (1_800, Standing::Fresh),
                (1_801, Standing::Old),
                (3_600, Standing::Old),
                (3_601, Standing::Unproven),
                (-300, Standing::Fresh),
                (-301, Standing::Unproven),
            ] {
                assert_eq!(at(seconds), standing, "{made} and {seconds}");
            }
        }
    }

    #[test]
    fn a_client_keeps_its_cookie_for_half_an_hour_and_is_then_given_another() {
        let (secret, address) = (secret(SECRET), "192.0.2.1".parse().unwrap());
        let first = secret.answer(&Cookie::read(b"clientck").unwrap(), address, 10_000);
        assert_eq!(first.client, ClientCookie(*b"clientck"));
        let server = |cookie: Cookie| cookie.server.unwrap().as_bytes().to_vec();
        assert_eq!(server(first), secret.issue(first.client, address, 10_000));
        assert_eq!(secret.answer(&first, address, 11_800), first);
        assert_eq!(server(secret.answer(&first, address, 11_801)), secret.issue(first.client, address, 11_801));
        let wrong = Cookie::read(b"clientckserver01").unwrap();
        assert_eq!(secret.answer(&wrong, address, 10_000), first);
    }

    #[test]
    fn a_cookie_is_for_one_client_alone() {
        let (secret, address) = (secret(SECRET), "192.0.2.1".parse().unwrap());
        let client = ClientCookie(*b"clientck");
        let cookie = secret.issue(client, address, 7);
        let unproven =
            |client, cookie: &[u8], address| secret.standing(client, cookie, address, 7) == Standing::Unproven;
        assert!(unproven(ClientCookie(*b"clientcK"), &cookie, address));
        assert!(unproven(client, &cookie, "192.0.2.2".parse().unwrap()));
        assert!(unproven(client, &cookie, "::c000:201".parse().unwrap()));
        assert!(!unproven(client, &cookie, "::ffff:192.0.2.1".parse().unwrap()), "a dual-stack socket");
        for end in 0..cookie.len() {
            assert!(unproven(client, &cookie[..end], address));
        }
        assert!(unproven(client, &[&cookie[..], &[0]].concat(), address));
        for bit in 0..128 {
            let mut flipped = cookie;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(unproven(client, &flipped, address), "{bit}");
        }
    }
}

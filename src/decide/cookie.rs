//! Cookies (RFC 7873): the option on the wire, the cookies that we hold as a client of upstreams ([`held`]), and those that we
//! give to our own clients ([`issued`]).
//!
//! Invariant: what is read here has one of the lengths that RFC 7873 §4 allows; a server's cookie is never looked into.

pub mod held;
pub mod issued;

use self::issued::ISSUED_COOKIE_BYTES;
use super::wire::option;

/// Octets of a client's cookie (RFC 7873 §4.1).
pub const CLIENT_COOKIE_BYTES: usize = 8;
/// Octets of a server's cookie, at least and at most (RFC 7873 §4.2).
const SERVER_COOKIE_BYTES_MIN: usize = 8;
const SERVER_COOKIE_BYTES_MAX: usize = 32;
/// Octets of an option in front of its data.
const FIXED_BYTES: usize = 4;
/// Octets of the longest option.
pub const COOKIE_BYTES_MAX: usize = FIXED_BYTES + CLIENT_COOKIE_BYTES + SERVER_COOKIE_BYTES_MAX;

/// What a client chooses, and gets back from whoever saw its question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientCookie(pub [u8; CLIENT_COOKIE_BYTES]);

/// What a server chooses, and gets back from whoever can receive at the client's address.
#[derive(Clone, Copy)]
pub struct ServerCookie {
    octets: [u8; SERVER_COOKIE_BYTES_MAX],
    bytes: u8,
}

impl ServerCookie {
    /// One of our own.
    pub fn issued(cookie: [u8; ISSUED_COOKIE_BYTES]) -> Self {
        let mut octets = [0; SERVER_COOKIE_BYTES_MAX];
        octets.iter_mut().zip(cookie).for_each(|(place, octet)| *place = octet);
        Self { octets, bytes: ISSUED_COOKIE_BYTES as u8 }
    }

    /// Its octets.
    pub fn as_bytes(&self) -> &[u8] {
        self.octets.get(..usize::from(self.bytes)).unwrap_or_default()
    }
}

impl PartialEq for ServerCookie {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for ServerCookie {}

impl std::fmt::Debug for ServerCookie {
    /// Its length only: a cookie in a log could be used by who reads it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerCookie({} octets)", self.bytes)
    }
}

/// A COOKIE option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// The client's part.
    pub client: ClientCookie,
    /// The server's part; none in a client's first question.
    pub server: Option<ServerCookie>,
}

/// The option has none of the lengths that RFC 7873 §4 allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadCookie;

impl Cookie {
    /// Reads the data of an option: 8 octets, or 16 to 40.
    pub fn read(data: &[u8]) -> Result<Self, BadCookie> {
        let (client, server) = data.split_first_chunk::<CLIENT_COOKIE_BYTES>().ok_or(BadCookie)?;
        let client = ClientCookie(*client);
        if server.is_empty() {
            return Ok(Self { client, server: None });
        }
        if !(SERVER_COOKIE_BYTES_MIN..=SERVER_COOKIE_BYTES_MAX).contains(&server.len()) {
            return Err(BadCookie);
        }
        let mut octets = [0; SERVER_COOKIE_BYTES_MAX];
        octets.get_mut(..server.len()).ok_or(BadCookie)?.copy_from_slice(server);
        Ok(Self { client, server: Some(ServerCookie { octets, bytes: server.len() as u8 }) })
    }

    fn server_octets(&self) -> &[u8] {
        self.server.as_ref().map_or(&[], ServerCookie::as_bytes)
    }

    /// Octets of the whole option.
    pub fn option_bytes(&self) -> usize {
        FIXED_BYTES + CLIENT_COOKIE_BYTES + self.server_octets().len()
    }

    /// Writes the whole option. Returns its length; 0 when there is no room.
    pub fn put(&self, out: &mut [u8]) -> usize {
        let bytes = self.option_bytes();
        let Some((fixed, behind)) = out.get_mut(..bytes).and_then(<[u8]>::split_first_chunk_mut::<FIXED_BYTES>) else {
            return 0;
        };
        let Some((client, server)) = behind.split_first_chunk_mut::<CLIENT_COOKIE_BYTES>() else { return 0 };
        let [code_hi, code_lo] = option::COOKIE.to_be_bytes();
        *fixed = [code_hi, code_lo, 0, (bytes - FIXED_BYTES) as u8];
        *client = self.client.0;
        server.copy_from_slice(self.server_octets());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_has_one_of_the_lengths_allowed() {
        let data: Vec<u8> = (0..=48).collect();
        for bytes in 0..=48 {
            let cookie = Cookie::read(&data[..bytes]);
            assert_eq!(cookie.is_ok(), bytes == 8 || (16..=40).contains(&bytes), "{bytes}");
            let Ok(cookie) = cookie else { continue };
            let mut out = [0xee; COOKIE_BYTES_MAX];
            assert_eq!(cookie.put(&mut out), 4 + bytes);
            assert_eq!((&out[..4], &out[4..4 + bytes]), (&[0, 10, 0, bytes as u8][..], &data[..bytes]));
            assert_eq!(cookie.put(&mut out[..3 + bytes]), 0, "no room");
        }
    }

    #[test]
    fn a_cookie_is_not_shown() {
        let cookie = Cookie::read(b"clientck\x11\x22\x33\x44\x55\x66\x77\x88").unwrap();
        assert_eq!(format!("{:?}", cookie.server), "Some(ServerCookie(8 octets))");
    }
}

//! Where a request comes from: the other end of its connection, or what a proxy that we trust says of it.
//!
//! Anybody can write `X-Forwarded-For`. It counts only when the connection comes from one of `TRUSTED_PROXIES`, and then only
//! as far as proxies that we trust have written it: from the right up to the first address that is none of theirs.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use axum::http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The other end of the connection; put there by `server`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Who asks, as far as addresses tell; put there by `limits`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client(pub(crate) IpAddr);

/// The networks whose word about an address is taken.
#[derive(Debug, Default)]
pub(crate) struct Proxies(Vec<IpNet>);

impl Proxies {
    /// Reads networks such as `10.0.0.0/8`, or single addresses.
    pub(crate) fn parse(networks: &[String]) -> anyhow::Result<Self> {
        networks.iter().map(|network| parse_network(network.trim())).collect::<Result<_, _>>().map(Self)
    }

    /// The address that a request is counted for.
    pub(crate) fn client(&self, Peer(peer): Peer, headers: &HeaderMap) -> Client {
        let mut client = peer.to_canonical();
        if !self.trusts(client) {
            return Client(client);
        }
        let (forwarded_for, forwarded) = (x_forwarded_for(headers), forwarded(headers));
        let hops = match (forwarded_for.is_empty(), forwarded.is_empty()) {
            (_, true) => forwarded_for,
            (true, _) => forwarded,
            // A proxy writes one of them and passes on what the caller wrote in the other: which, nobody knows.
            _ if forwarded_for == forwarded => forwarded,
            _ => return Client(client),
        };
        for hop in hops.into_iter().rev() {
            // Hidden by the proxy that wrote it, or nonsense: what it is counted for then is that proxy.
            let Some(address) = hop else { break };
            client = address;
            if !self.trusts(client) {
                break;
            }
        }
        Client(client)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

fn parse_network(text: &str) -> anyhow::Result<IpNet> {
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.with_context(|| {
        format!(
            "TRUSTED_PROXIES: expected networks or addresses separated by commas, for example \
             TRUSTED_PROXIES=10.0.0.0/8,2001:db8::7 (not `{text}`)"
        )
    })
}

/// The hops in the order in which they were written; nothing where one cannot be read.
fn x_forwarded_for(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(X_FORWARDED_FOR).iter();
    lines.flat_map(|line| line.to_str().unwrap_or("?").split(',')).map(address).collect()
}

fn forwarded(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(header::FORWARDED).iter();
    lines.flat_map(|line| line.to_str().unwrap_or("?").split(',')).map(forwarded_element).collect()
}

/// `for=192.0.2.60;proto=https` or `For="[2001:db8::17]:4711"`.
fn forwarded_element(element: &str) -> Option<IpAddr> {
    let mut pairs = element.split(';').filter_map(|pair| pair.trim().split_once('='));
    let (_, node) = pairs.find(|(name, _)| name.eq_ignore_ascii_case("for"))?;
    address(node.trim_matches('"'))
}

/// An address with or without a port, with or without brackets.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(trusted: &[&str], peer: &str, sent: &[(HeaderName, &str)]) -> String {
        let trusted: Vec<_> = trusted.iter().map(|&network| network.to_owned()).collect();
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(name, value.parse().unwrap());
        }
        let Client(client) = Proxies::parse(&trusted).unwrap().client(Peer(peer.parse().unwrap()), &headers);
        client.to_string()
    }

    /// S-21.
    #[test]
    fn what_a_stranger_says_of_its_address_does_not_count() {
        for sent in [(X_FORWARDED_FOR, "192.0.2.1"), (header::FORWARDED, "for=192.0.2.1")] {
            assert_eq!(client(&[], "198.51.100.9", std::slice::from_ref(&sent)), "198.51.100.9");
            assert_eq!(client(&["10.0.0.0/8"], "198.51.100.9", &[sent]), "198.51.100.9");
        }
    }

    #[test]
    fn the_client_is_the_last_hop_that_is_no_proxy_of_ours() {
        let trusted = &["10.0.0.0/8", "2001:db8::/32", "127.0.0.1"];
        for (sent, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            // What the caller wrote itself stands left of what the proxy wrote.
            ("203.0.113.5, 192.0.2.1", "192.0.2.1"),
            ("192.0.2.1, 10.9.9.9", "192.0.2.1"),
            ("203.0.113.5,192.0.2.1:4711,10.9.9.9", "192.0.2.1"),
            ("[2a00::1]:443", "2a00::1"),
            ("2a00::1", "2a00::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            // All of it inside.
            ("10.1.1.1, 10.2.2.2", "10.1.1.1"),
            // Who it was is not said: it is counted for the proxy that did not say it.
            ("192.0.2.1, unknown, 10.3.3.3", "10.3.3.3"),
            ("unknown", "10.0.0.7"),
            ("", "10.0.0.7"),
        ] {
            assert_eq!(client(trusted, "10.0.0.7", &[(X_FORWARDED_FOR, sent)]), expected, "{sent}");
        }
        assert_eq!(client(trusted, "::ffff:10.0.0.7", &[(X_FORWARDED_FOR, "192.0.2.1")]), "192.0.2.1");
        let lines = [(X_FORWARDED_FOR, "203.0.113.5"), (X_FORWARDED_FOR, "192.0.2.1")];
        assert_eq!(client(trusted, "127.0.0.1", &lines), "192.0.2.1", "lines are one list");
        assert_eq!(client(trusted, "127.0.0.1", &[]), "127.0.0.1");
    }

    #[test]
    fn the_standard_header_says_the_same() {
        for (sent, expected) in [
            ("for=192.0.2.1;proto=https;by=10.0.0.7", "192.0.2.1"),
            ("for=203.0.113.5, For=\"192.0.2.1:80\"", "192.0.2.1"),
            ("proto=https;for=\"[2a00::1]:4711\", for=10.1.1.1", "2a00::1"),
            ("for=_hidden", "10.0.0.7"),
            ("proto=https", "10.0.0.7"),
        ] {
            assert_eq!(client(&["10.0.0.0/8"], "10.0.0.7", &[(header::FORWARDED, sent)]), expected, "{sent}");
        }
    }

    #[test]
    fn of_two_headers_that_differ_neither_counts() {
        for (forwarded, expected) in [("for=203.0.113.5", "10.0.0.7"), ("for=192.0.2.1", "192.0.2.1")] {
            let sent = [(X_FORWARDED_FOR, "192.0.2.1"), (header::FORWARDED, forwarded)];
            assert_eq!(client(&["10.0.0.0/8"], "10.0.0.7", &sent), expected);
        }
    }

    #[test]
    fn a_network_that_is_none_is_named() {
        for wrong in ["*", "10.0.0.0/33", "proxy.example", "10.0.0"] {
            let error = Proxies::parse(&[wrong.to_owned()]).unwrap_err().to_string();
            assert!(error.starts_with("TRUSTED_PROXIES: expected ") && error.contains(wrong), "{error}");
        }
    }
}

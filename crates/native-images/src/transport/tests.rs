//! Names that lead inside: what a resolver says decides, for each connection anew.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use url::Url;

use super::resolve::Lookup;
use super::{Client, Download, FetchError, Job};
use crate::events::Events;
use crate::policy::{Limits, Policy};

/// Answers with these addresses, one list after the other and then the last one for ever, and counts.
fn answers(lists: Vec<Vec<IpAddr>>) -> (Lookup, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let there = Arc::clone(&count);
    let lookup = Lookup::new(move |_| {
        let list = &lists[there.fetch_add(1, Ordering::SeqCst).min(lists.len() - 1)];
        let found = list.iter().map(|address| SocketAddr::new(*address, 0)).collect();
        Box::pin(async { Ok(found) })
    });
    (lookup, count)
}

/// A server on all addresses of this host that answers each connection by a whole file or, the first time, by half of
/// one. Returns its port and how many connections came.
fn server(cut: bool) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let there = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let first = there.fetch_add(1, Ordering::SeqCst) == 0;
            let _ = stream.read(&mut [0; 4096]);
            let body: &[u8] = if cut && first { b"half" } else { b"half and half" };
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 13\r\nETag: \"x\"\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(body);
        }
    });
    (port, count)
}

fn policy(origins: &[&str]) -> Policy {
    let limits =
        Limits { pause: Duration::from_millis(1), retries: 2, connect: Duration::from_secs(5), ..Limits::default() };
    Policy { origins: origins.iter().map(|origin| origin.parse().unwrap()).collect(), limits, ..Policy::default() }
}

async fn fetch(client: &Client, url: &str) -> Result<Vec<u8>, FetchError> {
    let (url, events) = (Url::parse(url).unwrap(), Events::none());
    let mut download = Download::new(Job { client, url: &url, image: "img-1", events: &events, sum: None });
    download.start(None).await?;
    let mut all = Vec::new();
    while let Some(bytes) = download.next().await? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

#[tokio::test]
async fn names_that_lead_inside_are_not_asked() {
    let (port, count) = server(false);
    let url = format!("http://images.example:{port}/a");
    for inside in ["127.0.0.1", "127.8.8.8", "::1", "0.0.0.0", "::", "169.254.169.254", "fe80::1", "::ffff:127.0.0.1"] {
        let (lookup, asked) = answers(vec![vec![inside.parse().unwrap()]]);
        let error = fetch(&Client::with_lookup(policy(&[]), lookup), &url).await.unwrap_err();
        assert!(matches!(&error, FetchError::Inside { host } if host == "images.example"), "{inside}: {error:?}");
        assert!(error.hint().unwrap().contains("download_origins"));
        assert_eq!(asked.load(Ordering::SeqCst), 1, "asking again would not help");
    }
    assert_eq!(count.load(Ordering::SeqCst), 0, "nobody was connected to");

    let (lookup, _) = answers(vec![vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]]);
    let listed = policy(&[&format!("http://images.example:{port}")]);
    let got = fetch(&Client::with_lookup(listed, lookup), &url).await.unwrap();
    assert_eq!(got, b"half and half", "the operator says that images come from there");

    let (lookup, _) = answers(vec![vec!["169.254.1.1".parse().unwrap()]]);
    let error = fetch(&Client::with_lookup(policy(&[]), lookup), &url.replace("images.example", "localhost")).await;
    assert!(matches!(error, Err(FetchError::Inside { .. })), "localhost is this host, not its link: {error:?}");
}

#[tokio::test]
async fn of_several_addresses_only_those_outside_are_asked() {
    let (port, count) = server(false);
    // TEST-NET-1 (RFC 5737) leads nowhere; the connection to it fails or runs into its limit.
    let (lookup, _) = answers(vec![vec![IpAddr::V4(Ipv4Addr::LOCALHOST), "192.0.2.1".parse().unwrap()]]);
    let mut policy = policy(&[]);
    policy.limits.connect = Duration::from_millis(200);
    policy.limits.retries = 0;
    let error = fetch(&Client::with_lookup(policy, lookup), &format!("http://images.example:{port}/a")).await;
    assert!(matches!(error, Err(FetchError::Connection { .. } | FetchError::Timeout { .. })), "{error:?}");
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_name_that_moves_inside_during_a_download_is_not_followed() {
    // An address of this host that is not loopback, as the way to a server "outside".
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let own = socket.connect(("192.0.2.1", 9)).and_then(|()| socket.local_addr()).map(|address| address.ip());
    let Some(own) = own.ok().filter(|address| !super::resolve::is_local(address)) else {
        println!("skipped: this host has no address but loopback");
        return;
    };
    let (port, count) = server(true);
    let url = format!("http://images.example:{port}/a");
    let (lookup, asked) = answers(vec![vec![own], vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]]);
    let error = fetch(&Client::with_lookup(policy(&[]), lookup), &url).await.unwrap_err();
    assert!(matches!(error, FetchError::Inside { .. }), "{error:?}");
    assert_eq!((count.load(Ordering::SeqCst), asked.load(Ordering::SeqCst)), (1, 2));

    // Where it stays outside, the download goes on.
    let (port, count) = server(true);
    let (lookup, _) = answers(vec![vec![own]]);
    let got =
        fetch(&Client::with_lookup(policy(&[]), lookup), &format!("http://images.example:{port}/a")).await.unwrap();
    assert_eq!((got, count.load(Ordering::SeqCst)), (b"half and half".to_vec(), 2));
}

#[tokio::test]
async fn a_proxy_may_be_inside_whatever_it_is_called() {
    let (port, _) = server(false);
    let (lookup, _) = answers(vec![vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]]);
    let through = Policy { proxy: Some(format!("http://proxy.example:{port}").parse().unwrap()), ..policy(&[]) };
    let got = fetch(&Client::with_lookup(through, lookup), "http://images.example/a").await.unwrap();
    assert_eq!(got, b"half and half");
}

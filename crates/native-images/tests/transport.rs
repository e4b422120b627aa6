//! A server that stalls, lies, drops, redirects and refuses: each has its own error, and nothing is left.
#![expect(clippy::unwrap_used, reason = "a test fails where something unexpected happens")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use native_images::{Credentials, EnsureError, Event, Events, FetchError, Limits, Policy, RedirectRefusal, Sent};

async fn failed(handler: impl Fn(&Request, usize) -> Vec<Act> + Send + Sync + 'static) -> FetchError {
    failed_with(policy(), handler).await
}

async fn failed_with(
    policy: Policy,
    handler: impl Fn(&Request, usize) -> Vec<Act> + Send + Sync + 'static,
) -> FetchError {
    let server = Server::start(handler).await;
    let temp = tempdir();
    let images = open(temp.path(), policy);
    let error = images.ensure(&image(&server.url("/img-1.tar.xz"), None), &none()).await.unwrap_err();
    eventually("staging is empty", || std::fs::read_dir(temp.path().join("cache/staging")).unwrap().next().is_none())
        .await;
    assert_empty(temp.path());
    match error {
        EnsureError::Fetch { source, .. } => source,
        other => panic!("{other:?}"),
    }
}

fn body() -> Vec<u8> {
    xz(&bait(&usual()))
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_have_their_own_errors() {
    for (status, kind) in [
        ("401 No", "download-unauthorized"),
        ("407 No", "download-unauthorized"),
        ("403 No", "download-forbidden"),
        ("404 No", "download-not-found"),
        ("410 No", "download-not-found"),
        ("204 Empty", "download-empty"),
        ("500 Broken", "download-status"),
        ("503 Busy", "download-status"),
        ("418 Tea", "download-status"),
        ("206 Partial Content", "download-wrong-part"),
        ("304 Not Modified", "download-status"),
    ] {
        let error = failed(move |_, _| vec![Act::Send(answer(status, &[("Content-Length", "0")], b""))]).await;
        assert_eq!(error.kind(), kind, "{status}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_pass_is_tried_again() {
    for (number_of_failures, first) in
        [(3, "503 Busy"), (2, "429 Slow"), (1, "500 Broken"), (1, "502 Gateway"), (2, "504 Gateway"), (1, "408 Late")]
    {
        let server = Server::start(move |request, number| {
            let busy = answer(first, &[("Content-Length", "0"), ("Retry-After", "0")], b"");
            vec![Act::Send(if number < number_of_failures { busy } else { file_answer(request, &body(), "\"x\"") })]
        })
        .await;
        let temp = tempdir();
        let images = open(temp.path(), policy());
        images.ensure(&image(&server.url("/a"), None), &none()).await.unwrap();
        assert_eq!(server.requests().len(), number_of_failures + 1, "{first}");
    }
    // What a server asks for beyond the limit is not waited for.
    let error = failed(|_, _| vec![Act::Send(answer("429 Slow", &[("Retry-After", "86400")], b""))]).await;
    assert!(matches!(error, FetchError::Status { status: 429 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_anywhere_is_resumed() {
    let body = Arc::new(body());
    for tenth in 0..10 {
        let (send, cut) = (Arc::clone(&body), body.len() * tenth / 10);
        let server = Server::start(move |request, number| {
            let mut bytes = file_answer(request, &send, "\"x\"");
            if number == 0 {
                bytes.truncate(bytes.len() - send.len() + cut);
            }
            vec![Act::Send(bytes)]
        })
        .await;
        let temp = tempdir();
        let images = open(temp.path(), policy());
        let resumed = Arc::new(AtomicUsize::new(0));
        let there = Arc::clone(&resumed);
        let events = Events::new(move |event| {
            if matches!(event, Event::Resumed { .. }) {
                there.fetch_add(1, Ordering::SeqCst);
            }
        });
        let image = image(&server.url("/a"), Some(sha256(&body)));
        images.ensure(&image, &events).await.unwrap_or_else(|error| panic!("cut at {cut}: {error:?}"));
        assert_eq!(resumed.load(Ordering::SeqCst), 1, "cut at {cut}");
        let requests = server.requests();
        assert_eq!(requests.len(), 2);
        if cut > 0 {
            assert_eq!(requests[1].range(), Some(cut));
            assert_eq!(requests[1].header("if-range"), Some("\"x\""));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_cuts_are_fine_as_long_as_each_brings_bytes() {
    let body = body();
    let send = body.clone();
    let server = Server::start(move |request, _| {
        let mut bytes = file_answer(request, &send, "\"x\"");
        let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        bytes.truncate(bytes.len().min(head + send.len() / 25));
        vec![Act::Send(bytes)]
    })
    .await;
    let temp = tempdir();
    open(temp.path(), policy()).ensure(&image(&server.url("/a"), Some(sha256(&body))), &none()).await.unwrap();
    assert!(server.requests().len() > 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_ranges_sends_again_and_the_bytes_are_compared() {
    let body = body();
    let other: Vec<u8> = body.iter().rev().copied().collect();
    for (second, works) in [(body.clone(), true), (other, false)] {
        let first = body.clone();
        let server = Server::start(move |_, number| {
            vec![Act::Send(if number == 0 {
                let mut bytes = ok(&first);
                bytes.truncate(bytes.len() - first.len() / 2);
                bytes
            } else if works {
                ok(&second)
            } else {
                // Changes every time: never two alike.
                let mut changing = second.clone();
                changing[0] = number as u8;
                let mut bytes = ok(&changing);
                bytes.truncate(bytes.len() - 10);
                bytes
            })]
        })
        .await;
        let temp = tempdir();
        let images = open(temp.path(), policy());
        let result = images.ensure(&image(&server.url("/a"), None), &none()).await;
        assert_eq!(result.is_ok(), works, "{result:?}");
        if !works {
            assert_empty(temp.path());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_during_the_download_is_fetched_anew() {
    let (old, new) = (body(), xz(&bait(&tar(&[file("new", b"new")]))));
    let there = new.clone();
    let server = Server::start(move |request, number| {
        let mut bytes =
            file_answer(request, if number == 0 { &old } else { &there }, if number == 0 { "\"1\"" } else { "\"2\"" });
        if number == 0 {
            bytes.truncate(bytes.len() - old.len() / 2);
        }
        vec![Act::Send(bytes)]
    })
    .await;
    let temp = tempdir();
    let images = open(temp.path(), policy());
    let handle = images.ensure(&image(&server.url("/a"), None), &none()).await.unwrap();
    assert_eq!(handle.digest(), sha256(&new).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_about_length_and_ranges_are_found() {
    // Too long an announcement: never completed, though each retry gets what there is.
    let error = failed(|request, _| {
        let body = body();
        match request.range() {
            None => vec![Act::Send(answer("200 OK", &[("Content-Length", "99999999"), ("ETag", "\"x\"")], &body))],
            Some(_) => vec![Act::Send(answer("416 No", &[("Content-Length", "0")], b""))],
        }
    })
    .await;
    assert!(matches!(error, FetchError::Changed), "{error:?}");
    // Too short: the archive is cut, and says so.
    let server = Server::start(|_, _| {
        let body = body();
        vec![Act::Send(answer("200 OK", &[("Content-Length", &(body.len() / 2).to_string())], &body))]
    })
    .await;
    let temp = tempdir();
    let images = open(temp.path(), policy());
    let error = images.ensure(&image(&server.url("/a"), None), &none()).await.unwrap_err();
    assert_eq!(error.kind(), "archive-damaged", "{error:?}");
    assert_empty(temp.path());
    // A part other than the one asked for.
    for range in ["bytes 0-9/99", "bytes 5-1/9", "nonsense", "bytes */5"] {
        let error = failed(move |request, number| {
            let mut bytes = file_answer(request, &body(), "\"x\"");
            if number == 0 {
                bytes.truncate(bytes.len() - 1000);
            } else {
                bytes = answer("206 Partial Content", &[("Content-Range", range), ("Content-Length", "1")], b"x");
            }
            vec![Act::Send(bytes)]
        })
        .await;
        assert!(matches!(error, FetchError::WrongPart), "{range}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_without_a_length_end_with_the_archive() {
    let body = body();
    let chunked = |cut: bool, body: &[u8]| {
        let mut bytes = answer("200 OK", &[("Transfer-Encoding", "chunked")], b"");
        for chunk in body.chunks(5000) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        if !cut {
            bytes.extend_from_slice(b"0\r\n\r\n");
        }
        bytes
    };
    for (bytes, kind) in [
        (answer("200 OK", &[], &body), None),
        (answer("200 OK", &[], &body[..body.len() - 100]), Some("archive-damaged")),
        (chunked(false, &body), None),
        (chunked(true, &body[..body.len() / 2]), Some("download-connection")),
    ] {
        let server = Server::start(move |_, _| vec![Act::Send(bytes.clone())]).await;
        let temp = tempdir();
        let images = open(temp.path(), policy());
        let result = images.ensure(&image(&server.url("/a"), None), &none()).await;
        assert_eq!(result.as_ref().err().map(EnsureError::kind), kind, "{result:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stalls_and_trickles_end() {
    let limits =
        Limits { connect: Duration::from_millis(300), idle: Duration::from_millis(200), retries: 1, ..quick() };
    let policy = Policy { limits, ..policy() };
    let silent = failed_with(policy.clone(), |_, _| vec![Act::Stall]);
    let header = failed_with(policy.clone(), |_, _| vec![Act::Send(b"HTTP/1.1 200 OK\r\n".to_vec()), Act::Stall]);
    let body = failed_with(policy.clone(), |request, _| {
        let mut bytes = file_answer(request, &body(), "\"x\"");
        bytes.truncate(if request.range().is_none() { bytes.len() - 1000 } else { 0 });
        vec![Act::Send(bytes), Act::Stall]
    });
    let trickle = Limits { idle: Duration::from_secs(1), min_rate: 1_000_000, ..policy.limits.clone() };
    let trickle = Policy { limits: trickle, ..policy.clone() };
    let trickle = failed_with(trickle, |request, _| {
        vec![Act::Drip(file_answer(request, &common::noise(100_000, 1), "\"x\""), 10, Duration::from_millis(20))]
    });
    let total = Policy { limits: Limits { total: Duration::from_millis(300), ..quick() }, ..Policy::default() };
    let total = failed_with(total, |request, _| {
        let mut bytes = file_answer(request, &crate::body(), "\"x\"");
        bytes.truncate(2000);
        vec![Act::Send(bytes), Act::Stall]
    });
    let (silent, header, body, trickle, total) = tokio::join!(silent, header, body, trickle, total);
    for error in [&silent, &header, &body, &total] {
        assert_eq!(error.kind(), "download-timeout", "{error:?}");
    }
    assert!(matches!(trickle, FetchError::Stalled { .. }), "{trickle:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_not_archives() {
    let html = b"\n<!DOCTYPE html><html><body>Please log in</body></html>";
    let error = failed(move |_, _| {
        let length = html.len().to_string();
        vec![Act::Send(answer("200 OK", &[("Content-Length", &length), ("Content-Type", "text/html")], html))]
    })
    .await;
    assert!(matches!(error, FetchError::WebPage { .. }), "{error:?}");
    assert!(failed(|_, _| vec![Act::Send(ok(b""))]).await.kind() == "download-empty");
    for (bytes, says) in [(&b"PK\x03\x04 zip"[..], "zip"), (b"{\"error\": 1}", "JSON"), (b"xyz", "78797a")] {
        let server = Server::start(move |_, _| vec![Act::Send(ok(bytes))]).await;
        let temp = tempdir();
        let error = open(temp.path(), policy()).ensure(&image(&server.url("/a"), None), &none()).await.unwrap_err();
        let text = std::error::Error::source(&error).unwrap().to_string();
        assert!(text.contains(says), "{text}");
        assert_empty(temp.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_have_a_largest_size() {
    for known in [true, false] {
        let policy = Policy { limits: Limits { download: 10_000, ..quick() }, ..Policy::default() };
        let error = failed_with(policy, move |_, _| {
            let body = body();
            vec![Act::Send(if known { ok(&body) } else { answer("200 OK", &[], &body) })]
        })
        .await;
        assert!(matches!(error, FetchError::TooLarge { limit: 10_000 }), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_followed_within_bounds() {
    let target = Server::file(body()).await;
    let there = target.url("/real");
    let server = Server::start(move |request, _| {
        let to = match request.path.as_str() {
            "/relative" => "/hop".to_owned(),
            "/hop" => there.clone(),
            "/circle" => "/circle2".to_owned(),
            "/circle2" => "/circle".to_owned(),
            "/file" => "file:///etc/passwd".to_owned(),
            "/ftp" => "ftp://host/x".to_owned(),
            "/nowhere" => return vec![Act::Send(answer("302 Found", &[("Content-Length", "0")], b""))],
            "/bad" => "http://[".to_owned(),
            path => format!("{path}x"),
        };
        vec![Act::Send(answer("302 Found", &[("Location", &to), ("Content-Length", "0")], b""))]
    })
    .await;
    let temp = tempdir();
    let images = open(temp.path(), policy());
    let refusal = async |path: &str| match images.ensure(&image(&server.url(path), None), &none()).await.unwrap_err() {
        EnsureError::Fetch { source: FetchError::Redirect(refusal), .. } => refusal,
        other => panic!("{path}: {other:?}"),
    };
    assert_eq!(refusal("/circle").await, RedirectRefusal::Circle);
    assert_eq!(refusal("/endless").await, RedirectRefusal::TooMany(5));
    assert_eq!(refusal("/file").await, RedirectRefusal::Scheme("file".into()));
    assert_eq!(refusal("/ftp").await, RedirectRefusal::Scheme("ftp".into()));
    assert_eq!(refusal("/nowhere").await, RedirectRefusal::Nowhere);
    assert_eq!(refusal("/bad").await, RedirectRefusal::Nowhere);
    assert_empty(temp.path());
    images.ensure(&image(&server.url("/relative"), None), &none()).await.unwrap();
}

fn with_credentials() -> Policy {
    let credentials = Credentials { user: "me".into(), password: "secret-word".to_owned().into() };
    Policy { credentials: Some(credentials), ..policy() }
}

/// Two servers; the first redirects to the second.
async fn pair() -> (Server, Server) {
    let target = Server::file(body()).await;
    let there = target.url("/real");
    let first = Server::start(move |_, _| {
        vec![Act::Send(answer("302 Found", &[("Location", &there), ("Content-Length", "0")], b""))]
    })
    .await;
    (first, target)
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_stay_with_their_origin() {
    const BASIC: &str = "Basic bWU6c2VjcmV0LXdvcmQ=";
    let (first, target) = pair().await;
    let temp = tempdir();
    open(temp.path(), with_credentials()).ensure(&image(&first.url("/a"), None), &none()).await.unwrap();
    assert_eq!(first.requests()[0].header("authorization"), Some(BASIC));
    assert_eq!(target.requests()[0].header("authorization"), None, "another port is another origin");

    let (first, target) = pair().await;
    let temp = tempdir();
    let origins = vec![target.url("").parse().unwrap()];
    let listed = Policy { origins, ..with_credentials() };
    open(temp.path(), listed).ensure(&image(&first.url("/a"), None), &none()).await.unwrap();
    assert_eq!(first.requests()[0].header("authorization"), None, "with a list, only to what is listed");
    assert_eq!(target.requests()[0].header("authorization"), Some(BASIC));

    let (first, target) = pair().await;
    let temp = tempdir();
    let url = first.url("/a").replace("http://", "http://an:p%40ss@");
    let images = open(temp.path(), policy());
    images.ensure(&image(&url, None), &none()).await.unwrap();
    assert_eq!(first.requests()[0].header("authorization"), Some("Basic YW46cEBzcw=="));
    assert_eq!(target.requests()[0].header("authorization"), None);
    let listed = serde_json::to_string(&images.list().await.unwrap()).unwrap();
    assert!(!listed.contains("p%40ss") && !listed.contains("p@ss"), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_kept_back_and_never_shown() {
    // A name that is no loopback address by its text, served by a proxy that answers everything with 401.
    let server = Server::start(|_, _| vec![Act::Send(answer("401 No", &[("Content-Length", "0")], b""))]).await;
    let temp = tempdir();
    let policy = Policy { proxy: Some(server.url("").parse().unwrap()), ..with_credentials() };
    let shown = format!("{policy:?}");
    let images = open(temp.path(), policy);
    let error = images.ensure(&image("http://images.example/a", None), &none()).await.unwrap_err();
    let EnsureError::Fetch { source: FetchError::Unauthorized { sent, .. }, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*sent, Sent::KeptBack("http://images.example:80".into()));
    assert!(error.hint().unwrap().contains("download_origins"));
    assert_eq!(server.requests()[0].header("authorization"), None);
    assert!(!shown.contains("secret-word") && !format!("{error:?}").contains("secret-word"));
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_inside_the_host_are_not_redirected_to() {
    let hits = Arc::new(Mutex::new(0));
    let there = Arc::clone(&hits);
    let inside = Server::start(move |_, _| {
        *there.lock().unwrap() += 1;
        vec![Act::Send(ok(&body()))]
    })
    .await;
    let targets =
        [inside.url("/"), inside.url("/").replace("127.0.0.1", "[::1]"), "http://169.254.169.254/x".to_owned()];
    for target in targets {
        let proxy =
            Server::start(move |_, _| vec![Act::Send(answer("302 Found", &[("Location", &target)], b""))]).await;
        let temp = tempdir();
        let policy = Policy { proxy: Some(proxy.url("").parse().unwrap()), ..policy() };
        let error =
            open(temp.path(), policy).ensure(&image("http://images.example/a", None), &none()).await.unwrap_err();
        assert_eq!(error.kind(), "download-redirect", "{error:?}");
    }
    assert_eq!(*hits.lock().unwrap(), 0);
    let temp = tempdir();
    let error =
        open(temp.path(), policy()).ensure(&image("http://169.254.169.254/x", None), &none()).await.unwrap_err();
    assert_eq!(error.kind(), "download-link-local", "{error:?}");
    for url in ["file:///etc/passwd", "ftp://host/x", "data:,x"] {
        let error = open(temp.path(), policy()).ensure(&image(url, None), &none()).await.unwrap_err();
        assert_eq!(error.kind(), "download-scheme", "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_an_outage() {
    let port = {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.local_addr().unwrap().port()
    };
    let temp = tempdir();
    let images = open(temp.path(), policy());
    let error = images.ensure(&image(&format!("http://127.0.0.1:{port}/a"), None), &none()).await.unwrap_err();
    assert_eq!(error.kind(), "download-connection", "{error:?}");
    assert_empty(temp.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_future_leaves_nothing() {
    let body = xz(&bait(&tar(&[file("a", &noise(2_000_000, 3))])));
    for tenth in [0, 1, 5, 9] {
        let (send, part) = (body.clone(), body.len() * tenth / 10);
        let server = Server::start(move |request, _| {
            let mut bytes = file_answer(request, &send, "\"x\"");
            bytes.truncate(bytes.len() - send.len() + part);
            vec![Act::Send(bytes), Act::Stall]
        })
        .await;
        let temp = tempdir();
        let images = open(temp.path(), policy());
        let (image, there) = (image(&server.url("/a"), Some(sha256(&body))), images.clone());
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let events = Events::new(move |event| drop(tell.send(event)));
        let task = tokio::spawn(async move { drop(there.ensure(&image, &events).await) });
        while let Some(event) = told.recv().await {
            if matches!(event, Event::Phase { phase: native_images::Phase::Download, .. }) {
                break;
            }
        }
        task.abort();
        eventually("nothing is left", || {
            ["blobs", "layers", "staging"]
                .iter()
                .all(|part| std::fs::read_dir(temp.path().join("cache").join(part)).unwrap().next().is_none())
        })
        .await;
    }
}

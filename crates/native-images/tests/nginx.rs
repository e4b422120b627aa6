//! A real server: Debian's nginx with basic auth, ranges and TLS.
#![expect(clippy::disallowed_methods, reason = "starts nginx and openssl")]
#![expect(clippy::print_stdout, reason = "a suite that is skipped says so")]
#![expect(clippy::unwrap_used, reason = "a test fails where something unexpected happens")]

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::*;
use native_images::{Credentials, EnsureError, FetchError, Policy, Sent};

struct Nginx {
    child: Child,
    http: u16,
    https: u16,
    /// With a certificate that has expired.
    expired: u16,
    /// With a certificate that no authority signed.
    self_signed: u16,
    /// That knows TLS 1.0 and nothing newer.
    old: u16,
    _temp: tempfile::TempDir,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its master ends its workers when it is asked to, not when it is killed.
        let id = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

fn installed(program: &str) -> bool {
    Command::new(program).arg(if program == "nginx" { "-v" } else { "version" }).output().is_ok()
}

/// nginx with a certificate of its own, or `None` with the reason said.
async fn start(files: &[(&str, &[u8])]) -> Option<(Nginx, Vec<u8>)> {
    for program in ["nginx", "openssl"] {
        if !installed(program) {
            println!("skipped: {program} is not installed");
            return None;
        }
    }
    let temp = tempdir();
    let dir = temp.path();
    std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::create_dir(dir.join("files")).unwrap();
    for (name, content) in files {
        std::fs::write(dir.join("files").join(name), content).unwrap();
    }
    certificate(dir);
    // SHA-1 of `secret-word`, as htpasswd -s writes it.
    use sha1::Digest as _;
    let digest = sha1::Sha1::digest(b"secret-word");
    std::fs::write(dir.join("users"), format!("me:{{SHA}}{}\n", base64(&digest))).unwrap();
    let [http, https, expired, self_signed, old] = [0; 5].map(|_| free_port());
    let user = if rustix::process::getuid().is_root() { "user root;" } else { "" };
    let config = format!(
        "daemon off; {user} worker_processes 1; error_log stderr; pid {0}/pid;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; client_body_temp_path {0}/t1; proxy_temp_path {0}/t2; fastcgi_temp_path {0}/t3;\n\
         uwsgi_temp_path {0}/t4; scgi_temp_path {0}/t5; limit_rate 20m;\n\
         server {{ listen 127.0.0.1:{http}; root {0}/files; location / {{ auth_basic x; auth_basic_user_file {0}/users; }}\n\
         location /open/ {{ alias {0}/files/; }} location /moved/ {{ return 302 https://localhost:{https}/; }}\n\
         location /down/ {{ return 302 http://127.0.0.1:{http}/open/image; }} }}\n\
         server {{ listen 127.0.0.1:{https} ssl; ssl_certificate {0}/cert.pem; ssl_certificate_key {0}/key.pem;\n\
         root {0}/files; location /down {{ return 302 http://127.0.0.1:{http}/open/image; }} }}\n\
         server {{ listen 127.0.0.1:{expired} ssl; ssl_certificate {0}/expired.pem; ssl_certificate_key {0}/key.pem;\n\
         root {0}/files; }}\n\
         server {{ listen 127.0.0.1:{self_signed} ssl; ssl_certificate {0}/self.pem; ssl_certificate_key {0}/self.key;\n\
         root {0}/files; }}\n\
         server {{ listen 127.0.0.1:{old} ssl; ssl_certificate {0}/cert.pem; ssl_certificate_key {0}/key.pem;\n\
         ssl_protocols TLSv1; ssl_ciphers ALL:@SECLEVEL=0; root {0}/files; }} }}\n",
        dir.display()
    );
    std::fs::write(dir.join("nginx.conf"), config).unwrap();
    let child = Command::new("nginx")
        .args(["-p".as_ref(), dir.as_os_str(), "-c".as_ref(), dir.join("nginx.conf").as_os_str()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("nginx listens", || std::net::TcpStream::connect(("127.0.0.1", https)).is_ok()).await;
    let ca = std::fs::read(dir.join("ca.pem")).unwrap();
    Some((Nginx { child, http, https, expired, self_signed, old, _temp: temp }, ca))
}

/// An authority, a certificate for `localhost` that it signed, one that has expired, and one that is its own authority.
fn certificate(dir: &Path) {
    let run = |args: &str| {
        let output = Command::new("openssl").args(args.split(' ')).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    };
    std::fs::write(
        dir.join("ext"),
        "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n",
    )
    .unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    run(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca"));
    run(&format!("req {key} -keyout key.pem -out csr.pem -subj /CN=localhost"));
    let sign = "x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -extfile ext";
    run(&format!("{sign} -days 2 -out cert.pem"));
    run(&format!("{sign} -days -1 -out expired.pem"));
    run(&format!(
        "req -x509 {key} -keyout self.key -out self.pem -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    ));
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let value = chunk.iter().fold(0u32, |value, byte| (value << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for index in 0..4 {
            let letter = LETTERS[(value >> (18 - 6 * index)) as usize & 63];
            text.push(if index <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_with_auth_ranges_and_tls() {
    let body = xz(&bait(&tar(&[file("a", &noise(3_000_000, 5))])));
    let Some((nginx, ca)) = start(&[("image", &body)]).await else { return };
    let sum = sha256(&body);
    let plain = format!("http://127.0.0.1:{}/image", nginx.http);
    let tls = format!("https://localhost:{}/image", nginx.https);
    let user = |password: &str| Policy {
        credentials: Some(Credentials { user: "me".into(), password: password.to_owned().into() }),
        ..policy()
    };

    let temp = tempdir();
    let handle =
        open(temp.path(), user("secret-word")).ensure(&image(&plain, Some(sum.clone())), &none()).await.unwrap();
    assert_eq!(handle.bytes(), body.len() as u64);
    for (policy, sent) in [(user("wrong"), Sent::Yes), (policy(), Sent::None)] {
        let temp = tempdir();
        let error = open(temp.path(), policy).ensure(&image(&plain, Some(sum.clone())), &none()).await.unwrap_err();
        let EnsureError::Fetch { source: FetchError::Unauthorized { sent: got, .. }, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!(got, sent);
        assert_empty(temp.path());
    }

    // Without a sum: its validators are enough to know that nothing changed.
    let temp = tempdir();
    let images = open(temp.path(), user("secret-word"));
    assert!(!images.ensure(&image(&plain, None), &none()).await.unwrap().from_cache());
    assert!(images.ensure(&image(&plain, None), &none()).await.unwrap().from_cache());

    // TLS by an authority that the operator gave, and by none.
    let temp = tempdir();
    let error = open(temp.path(), policy()).ensure(&image(&tls, Some(sum.clone())), &none()).await.unwrap_err();
    assert_eq!(error.kind(), "download-connection", "{error:?}");
    let trusting = Policy { extra_ca: vec![ca], ..policy() };
    let temp = tempdir();
    let images = open(temp.path(), trusting.clone());
    images.ensure(&image(&tls, Some(sum.clone())), &none()).await.unwrap();
    let other_name = tls.replace("localhost", "127.0.0.1");
    let error = images.ensure(&image(&other_name, None), &none()).await.unwrap_err();
    assert_eq!(error.kind(), "download-connection", "{error:?}");
    let down = format!("https://localhost:{}/down", nginx.https);
    let error = images.ensure(&image(&down, None), &none()).await.unwrap_err();
    assert_eq!(error.kind(), "download-redirect", "{error:?}");
    let wrong = Policy {
        extra_ca: vec![b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec()],
        ..policy()
    };
    let error = native_images::Images::open(&temp.path().join("cache"), wrong).unwrap_err();
    assert!(matches!(error, native_images::OpenError::Policy { .. }), "{error:?}");
}

/// An error with all its causes.
fn whole(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(|error| format!("{error}; ")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_can_not_be_trusted_are_refused_at_once() {
    let body = xz(&usual());
    let Some((nginx, ca)) = start(&[("image", &body)]).await else { return };
    let trusting = Policy { extra_ca: vec![ca], ..policy() };
    let url = |host: &str, port: u16| format!("https://{host}:{port}/image");
    for (name, url, why) in [
        ("expired", url("localhost", nginx.expired), "certificate: expired"),
        ("for another host", url("127.0.0.1", nginx.https), "not valid for name"),
        ("its own authority", url("localhost", nginx.self_signed), "certificate"),
        ("TLS 1.0", url("localhost", nginx.old), "protocol"),
    ] {
        if name == "TLS 1.0" && !speaks_old_tls(nginx.old) {
            println!("skipped: TLS 1.0: this host's OpenSSL does not serve it any more");
            continue;
        }
        let retries = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let there = std::sync::Arc::clone(&retries);
        let events = native_images::Events::new(move |event| {
            if matches!(event, native_images::Event::Retry { .. }) {
                there.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        });
        let temp = tempdir();
        let error = open(temp.path(), trusting.clone()).ensure(&image(&url, None), &events).await.unwrap_err();
        let text = whole(&error);
        assert!(error.kind() == "download-connection" && text.to_lowercase().contains(why), "{name}: {text}");
        assert_eq!(retries.load(std::sync::atomic::Ordering::SeqCst), 0, "{name}: tried again: {text}");
        assert_empty(temp.path());
    }
    // The same server, asked in the right way, is fine.
    let temp = tempdir();
    open(temp.path(), trusting).ensure(&image(&url("localhost", nginx.https), None), &none()).await.unwrap();
}

/// Whether the server really speaks what the test says it does.
fn speaks_old_tls(port: u16) -> bool {
    let connect = format!("localhost:{port}");
    let client = Command::new("openssl")
        .args(["s_client", "-tls1", "-cipher", "ALL:@SECLEVEL=0", "-connect", &connect])
        .stdin(Stdio::null())
        .output();
    client.is_ok_and(|output| output.status.success() && String::from_utf8_lossy(&output.stdout).contains("TLSv1"))
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_resumes_where_a_connection_broke() {
    let body = xz(&bait(&tar(&[file("a", &noise(3_000_000, 5))])));
    let Some((nginx, _)) = start(&[("image", &body)]).await else { return };
    // A relay that cuts the first connection in the middle.
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let relay = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        for number in 0.. {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = tokio::net::TcpStream::connect(("127.0.0.1", nginx.http)).await.unwrap();
            tokio::spawn(async move {
                let (mut left, mut buffer) = (if number == 0 { 1_000_000usize } else { usize::MAX }, vec![0u8; 16384]);
                let mut question = vec![0u8; 4096];
                let got = client.read(&mut question).await.unwrap();
                server.write_all(&question[..got]).await.unwrap();
                while left > 0 {
                    let Ok(got @ 1..) = server.read(&mut buffer).await else { return };
                    left = left.saturating_sub(got);
                    if client.write_all(&buffer[..got]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let temp = tempdir();
    let resumed = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let there = std::sync::Arc::clone(&resumed);
    let events = native_images::Events::new(move |event| {
        if let native_images::Event::Resumed { at, .. } = event {
            there.store(at, std::sync::atomic::Ordering::SeqCst);
        }
    });
    let image = image(&format!("http://127.0.0.1:{port}/open/image"), Some(sha256(&body)));
    open(temp.path(), policy()).ensure(&image, &events).await.unwrap();
    assert!(resumed.load(std::sync::atomic::Ordering::SeqCst) > 100_000);
    relay.abort();
}

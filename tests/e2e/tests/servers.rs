//! Real servers: python's and nginx, both behind basic authentication.

use std::path::Path;
use std::process::Child;

use e2e::{Bench, Image, PASSWORD, Running, Tree, USER, command, until};

/// python's own file server with a password in front of it.
const PYTHON: &str = r#"
import base64, functools, http.server, sys
directory, wanted = sys.argv[1], "Basic " + base64.b64encode(sys.argv[2].encode()).decode()
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.headers.get("Authorization") != wanted:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="fish"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        super().do_GET()
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=directory))
print("port", server.server_address[1], flush=True)
server.serve_forever()
"#;

/// An image from a server of its own, and a run with it.
fn run_from(bench: &Bench, image: &Image, port: u16) {
    let url = format!("http://127.0.0.1:{port}/{}", image.file);
    let label = bench.label_of(&[format!("{{url: '{url}', sum: '{}'}}", image.sum)], "{}");
    assert_eq!(bench.fish(&["run", &label]).code(0).stdout, "served\n");
    bench.assert_as_before();
}

fn image(bench: &Bench) -> Image {
    bench.image("work", &Tree::new().program("init.sh", "#!/bin/sh\necho served\n").file("data", vec![3; 2_000_000]))
}

fn found(tool: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin"]).any(|dir| Path::new(dir).join(tool).is_file())
}

#[test]
fn pythons_file_server() {
    let Some(bench) = Bench::new() else { return };
    if !found("python3") {
        println!("skipped: python3 is missing (apt-get install python3)");
        return;
    }
    let image = image(&bench);
    let script = bench.write("server.py", PYTHON);
    let served = bench.dir.path().join("served");
    let mut python = command("python3");
    python.arg(script).arg(served).arg(format!("{USER}:{PASSWORD}"));
    let mut server = Running::start(python);
    assert!(server.prints("\n"), "python's server did not start");
    let port = server.printed().trim().trim_start_matches("port ").parse().expect("a port");
    run_from(&bench, &image, port);
}

/// Ends a daemon with the test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn nginx() {
    let Some(bench) = Bench::new() else { return };
    if !found("nginx") {
        println!("skipped: nginx is missing (apt-get install nginx-light)");
        return;
    }
    let image = image(&bench);
    // A port that was free a moment ago; nginx is told a port and can't be asked for one.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let dir = bench.dir.path().display().to_string();
    bench.write("htpasswd", &format!("{USER}:{{PLAIN}}{PASSWORD}\n"));
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {dir}/nginx-{kind};"))
        .concat();
    let config = bench.write(
        "nginx.conf",
        &format!(
            "user root; daemon off; master_process off; pid {dir}/nginx.pid; error_log stderr;\nevents {{}}\nhttp {{ \
             access_log off; {paths} server {{ listen 127.0.0.1:{port}; root {dir}/served; auth_basic fish; \
             auth_basic_user_file {dir}/htpasswd; }} }}\n"
        ),
    );
    let mut nginx = command("nginx");
    nginx.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(["-c", &config, "-p", &dir, "-e", "stderr"]);
    let _daemon = Daemon(nginx.spawn().expect("start nginx"));
    until("nginx", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    run_from(&bench, &image, port);
}

//! A file server on loopback with basic authentication, for as long as the demo lasts.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The user that it knows.
pub(super) const USER: &str = "demo";
/// The user's password. It guards nothing: both ends are this program.
pub(super) const PASSWORD: &str = "open-sesame";
/// The header that the two make.
const AUTHORIZATION: &str = "Basic ZGVtbzpvcGVuLXNlc2FtZQ==";

/// The server; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Serves the files of a directory.
    pub(super) async fn start(dir: &Path) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let router = Router::new().route("/{name}", get(serve)).with_state(dir.to_owned());
        let task = tokio::spawn(async move {
            // It ends with the demo; what goes wrong before that, the download says.
            drop(axum::serve(listener, router).await);
        });
        Ok(Self { address, task })
    }

    /// Where it listens.
    pub(super) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(State(dir): State<PathBuf>, UrlPath(name): UrlPath<String>, headers: HeaderMap) -> Response {
    if headers.get(header::AUTHORIZATION).is_none_or(|given| given != AUTHORIZATION) {
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic realm=\"demo\"")]).into_response();
    }
    // One name, never a path.
    if name.contains(['/', '\\']) || name.starts_with('.') {
        return StatusCode::NOT_FOUND.into_response();
    }
    match tokio::fs::read(dir.join(name)).await {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/x-xz")], bytes).into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

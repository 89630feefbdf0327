//! A connection to a service, for one request after the other.

use std::{error::Error, net::SocketAddr};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// A connection to a service. It ends with this value.
pub(crate) struct Client {
    address: SocketAddr,
    requests: SendRequest<Full<Bytes>>,
}

/// A response.
pub(crate) struct Response {
    pub(crate) status: u16,
    #[allow(dead_code, reason = "the load does not look at it, and the tests do")]
    pub(crate) body: Bytes,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        let (requests, connection) = handshake(TokioIo::new(TcpStream::connect(address).await?)).await?;
        // It ends when `requests` is dropped, or with an error that the next request gets, too.
        tokio::spawn(connection);
        Ok(Self { address, requests })
    }

    /// Sends a request, with a body of JSON if there is one.
    pub(crate) async fn send(&mut self, method: &str, path: &str, body: Option<Value>) -> Result<Response> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, self.address.to_string());
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        self.requests.ready().await?;
        let response = self.requests.send_request(request.body(body.into())?).await?;
        let status = response.status().as_u16();
        Ok(Response { status, body: response.into_body().collect().await?.to_bytes() })
    }
}

//! Failures of calls, in Go's words.

use super::*;

async fn call(url: &str, tls: Option<&Tls>) -> String {
    let mut request = Request::new(Bytes::new());
    *request.uri_mut() = url.parse().unwrap();
    let limits = Limits { timeout: Duration::from_secs(5), response_bytes_max: 10 };
    Outbound::default()
        .call(tls, request, limits)
        .await
        .map_or_else(|error| error.to_string(), |r| r.status().to_string())
}

#[tokio::test]
async fn a_closed_port_a_bad_name_and_a_bad_bundle_are_told_apart() {
    assert_eq!(call("http://127.0.0.1:1/", None).await, "dial tcp 127.0.0.1:1: connect: connection refused");
    let tls = Tls { ca_pem: Bytes::from_static(b"nonsense"), ..Tls::default() };
    let text = "unable to load root certificates: unable to parse bytes as PEM block";
    assert_eq!(call("https://127.0.0.1:1/", Some(&tls)).await, text);
    assert_eq!(call("http://name.invalid/", None).await, "dial tcp: lookup name.invalid: no such host");
}

#[tokio::test]
async fn plain_http_where_tls_is_expected_is_said_to_be_that() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    });
    let tls = Tls { skip_verify: true, ..Tls::default() };
    assert_eq!(call(&url, Some(&tls)).await, "http: server gave HTTP response to HTTPS client");
}

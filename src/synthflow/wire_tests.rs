//! The client against a bare TCP server: what the network can do to a request.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use secrecy::SecretString;

use super::{Client, ClientConfig, ClientError};
use crate::clock;
use crate::core::call::{ListCalls, PlaceCall};
use crate::core::ids::{CallId, ModelId};
use crate::core::outcome::{Answer, NotSentCause, ProviderError, Sent, UnclearCause};
use crate::core::phone::E164;

/// What the server does once it has read a request whole.
#[derive(Clone)]
enum Then {
    Write(Vec<u8>),
    WriteAndReset(&'static str),
    Reset,
    Hang,
}

/// A server on a thread of its own; every connection is served by the same rule. What it read of each request comes
/// out of the channel; it ends with the process.
fn server(then: Then) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}/v2", listener.local_addr().unwrap());
    let (seen, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (then, seen) = (then.clone(), seen.clone());
            std::thread::spawn(move || serve(stream.unwrap(), &then, &seen));
        }
    });
    (base, requests)
}

fn serve(mut stream: TcpStream, then: &Then, seen: &mpsc::Sender<String>) {
    while let Some(request) = read_request(&mut stream) {
        let _ = seen.send(request);
        match then {
            Then::Write(bytes) => {
                if stream.write_all(bytes).is_err() {
                    return;
                }
            }
            Then::WriteAndReset(text) => {
                stream.write_all(text.as_bytes()).unwrap();
                stream.shutdown(Shutdown::Both).unwrap();
                return;
            }
            // Dropped with the request read: the client sees the connection closed.
            Then::Reset => return,
            Then::Hang => {
                let _ = stream.read(&mut [0; 1]);
                return;
            }
        }
    }
}

/// Head and body of the next request; `None` when the client has closed.
fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok()
                })
                .unwrap_or(0usize);
            if body.len() >= length {
                return Some(text);
            }
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk) {
            Ok(0) => return (!bytes.is_empty()).then_some(text),
            Ok(n) => bytes.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

fn answer(status: &str, headers: &str, body: &str) -> Then {
    let length = body.len();
    Then::Write(format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n{body}").into_bytes())
}

fn config(base: &str) -> ClientConfig {
    ClientConfig {
        timeout: Duration::from_millis(400),
        connect_timeout: Duration::from_millis(200),
        ..ClientConfig::new(base, SecretString::from("key-1"))
    }
}

fn client(base: &str) -> Client {
    Client::new(&config(base)).unwrap()
}

fn call() -> PlaceCall {
    PlaceCall {
        model_id: ModelId::parse("agent").unwrap(),
        phone: E164::from_canonical("+14155550123").unwrap(),
        name: "Ann".into(),
        from_phone_number: None,
        custom_variables: Vec::new(),
        prompt: None,
        greeting: None,
        lead_email: None,
        lead_timezone: None,
        traceparent: None,
    }
}

async fn place(client: &Client) -> Sent {
    client.place(&call(), clock::monotonic() + Duration::from_secs(60)).await.sent
}

async fn place_at(then: Then) -> (Sent, Vec<String>) {
    let (base, requests) = server(then);
    let sent = place(&client(&base)).await;
    (sent, requests.try_iter().collect())
}

fn answered(sent: Sent) -> Answer {
    match sent {
        Sent::Answered(answer) => answer,
        other => unreachable!("{other:?}"),
    }
}

#[tokio::test]
async fn a_request_is_written_as_documented() {
    let (sent, requests) = place_at(answer("200 OK", "", r#"{"response":{"call_id":"c"}}"#)).await;
    assert_eq!(answered(sent).status, 200);
    assert_eq!(requests.len(), 1);
    let request = &requests[0];
    assert!(request.starts_with("POST /v2/calls HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("authorization: Bearer key-1\r\n"), "{request}");
    assert!(request.contains("content-type: application/json\r\n"), "{request}");
    assert!(!request.contains("transfer-encoding"), "{request}");
    let body = request.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(body.as_bytes(), super::records::place_body(&call()));
}

#[tokio::test]
async fn a_refused_connection_sent_nothing() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sent = place(&client(&format!("http://{free}/v2"))).await;
    assert!(matches!(sent, Sent::NotSent(NotSentCause::Connect(_))), "{sent:?}");
}

#[tokio::test]
async fn an_unknown_host_sent_nothing() {
    // A label of 64 letters fails in the resolver itself: no name server is asked.
    let sent = place(&client(&format!("http://{}.invalid/v2", "a".repeat(64)))).await;
    assert!(matches!(sent, Sent::NotSent(NotSentCause::Dns(_))), "{sent:?}");
}

#[tokio::test]
async fn a_failed_tls_handshake_sent_nothing() {
    let (base, requests) = server(answer("200 OK", "", "{}"));
    let client = match Client::new(&config(&base.replace("http://", "https://"))) {
        Ok(client) => client,
        // A machine without CA certificates can make no https client at all.
        Err(ClientError::Build(_)) => return,
        Err(other) => unreachable!("{other}"),
    };
    let sent = place(&client).await;
    assert!(
        matches!(sent, Sent::NotSent(NotSentCause::Connect(_) | NotSentCause::ConnectTimeout)),
        "{sent:?}"
    );
    assert!(requests.try_iter().all(|r| !r.contains("POST")));
}

#[tokio::test]
async fn past_its_deadline_nothing_is_sent_on_a_fresh_or_a_kept_connection() {
    let (base, requests) = server(answer("200 OK", "", "{}"));
    let client = client(&base);
    let late = client.place(&call(), clock::monotonic()).await;
    assert_eq!((late.sent, late.left_by), (Sent::NotSent(NotSentCause::TooLate), None));
    assert_eq!(answered(place(&client).await).status, 200);
    let late = client.place(&call(), clock::monotonic()).await;
    assert_eq!((late.sent, late.left_by), (Sent::NotSent(NotSentCause::TooLate), None));
    assert_eq!(requests.try_iter().count(), 1);
}

/// A request that the connection can't take whole, because the other side doesn't read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_has_left_when_the_connection_has_taken_it() {
    const LENGTH: usize = 32 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}/v2", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // The first of it is here, the last can't have left.
        stream.peek(&mut [0; 1]).unwrap();
        let reads = clock::monotonic();
        let (mut read, mut chunk) = (0, vec![0; 1 << 20]);
        while read < LENGTH {
            read += stream.read(&mut chunk).unwrap();
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        reads
    });
    // It installs the TLS provider that the bare builder needs.
    drop(client(&base));
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    let gate = super::gate::Gate::new(clock::monotonic() + Duration::from_secs(60));
    let body = reqwest::Body::wrap(gate.body(vec![b'x'; LENGTH].into()));
    http.post(format!("{base}/calls")).body(body).send().await.unwrap();
    let reads = server.join().unwrap();
    assert!(gate.left_by().is_some_and(|at| at >= reads), "{:?} {reads:?}", gate.left_by());
}

/// The gate's own part: a deadline that passes while the connection is being made.
#[tokio::test]
async fn a_deadline_passed_while_connecting_stops_the_request_at_its_first_byte() {
    let (base, requests) = server(answer("200 OK", "", "{}"));
    // It installs the TLS provider that the bare builder needs.
    let client = client(&base);
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    let gate = super::gate::Gate::new(clock::monotonic());
    let sent =
        http.post(format!("{base}/calls")).body(reqwest::Body::wrap(gate.body("x".into()))).send().await;
    assert!(sent.is_err());
    assert!(gate.shut(), "nothing passed");
    assert_eq!(gate.left_by(), None);
    let _ = answered(place(&client).await);
    let seen: Vec<String> = requests.try_iter().collect();
    assert_eq!(seen.len(), 1, "only the second request was written: {seen:?}");
}

#[tokio::test]
async fn a_connection_closed_before_the_answer_is_unclear_and_posted_once() {
    let (sent, requests) = place_at(Then::Reset).await;
    assert!(matches!(sent, Sent::Unclear(UnclearCause::Connection(_))), "{sent:?}");
    assert_eq!(requests.len(), 1);
}

#[tokio::test]
async fn silence_is_unclear_and_posted_once() {
    let (sent, requests) = place_at(Then::Hang).await;
    assert_eq!(sent, Sent::Unclear(UnclearCause::Timeout));
    assert_eq!(requests.len(), 1);
}

#[tokio::test]
async fn bytes_that_are_not_http_are_unclear() {
    let (sent, _) = place_at(Then::Write(b"220 mail.example ESMTP\r\n".to_vec())).await;
    assert!(matches!(sent, Sent::Unclear(UnclearCause::Connection(_))), "{sent:?}");
}

#[tokio::test]
async fn an_answer_cut_in_its_body_keeps_its_status_and_what_came() {
    let cut = "HTTP/1.1 400 Bad Request\r\nContent-Length: 1000\r\n\r\n{\"detail\":";
    let (sent, requests) = place_at(Then::WriteAndReset(cut)).await;
    let answer = answered(sent);
    assert_eq!((answer.status, answer.body.as_slice()), (400, br#"{"detail":"#.as_slice()));
    assert_eq!(requests.len(), 1);
}

#[tokio::test]
async fn a_body_that_never_ends_is_cut_by_the_time_out() {
    let slow = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{".to_vec();
    let started = clock::monotonic();
    let (sent, requests) = place_at(Then::Write(slow)).await;
    let answer = answered(sent);
    assert_eq!((answer.status, answer.body.as_slice()), (200, b"{".as_slice()));
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(requests.len(), 1);
}

#[tokio::test]
async fn a_body_is_read_up_to_its_bound() {
    let (sent, _) = place_at(answer("500 Oops", "", &"x".repeat(200 << 10))).await;
    let answer = answered(sent);
    assert_eq!((answer.status, answer.body.len()), (500, 64 << 10));

    let huge = format!(r#"{{"response":{{"calls":[],"pad":"{}"}}}}"#, "x".repeat(9 << 20));
    let (base, _requests) = server(self::answer("200 OK", "", &huge));
    let mut config = config(&base);
    config.timeout = Duration::from_secs(20);
    let list = Client::new(&config).unwrap().list_calls(&list_filter()).await;
    assert!(matches!(list, Err(ProviderError::Unreadable(_))), "{list:?}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (base, requests) = server(answer("200 OK", "", r#"{"response":{"call_id":"c"}}"#));
    for status in ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"] {
        let (sent, first) = place_at(answer(status, &format!("Location: {base}/calls\r\n"), "")).await;
        assert_eq!(answered(sent).status.to_string(), status[..3]);
        assert_eq!(first.len(), 1);
    }
    assert_eq!(requests.try_iter().count(), 0);
}

#[tokio::test]
async fn a_200_without_a_body_is_an_answer_without_one() {
    let (sent, _) = place_at(answer("200 OK", "", "")).await;
    assert_eq!(answered(sent).body, b"");
}

#[tokio::test]
async fn retry_after_is_read_as_seconds_or_a_date() {
    let wait = async |header: &str| {
        answered(place_at(answer("429 Slow", &format!("Retry-After: {header}\r\n"), "")).await.0).retry_after
    };
    assert_eq!(wait("7").await, Some(Duration::from_secs(7)));
    assert_eq!(wait("soon").await, None);
    let date = (clock::wall() + chrono::TimeDelta::seconds(90)).to_rfc2822();
    let told = wait(&date).await.unwrap();
    assert!(told > Duration::from_secs(60) && told <= Duration::from_secs(90), "{told:?}");
}

fn list_filter() -> ListCalls {
    ListCalls {
        model_id: ModelId::parse("a/b?c").unwrap(),
        from: chrono::DateTime::from_timestamp_millis(1_763_900_000_123),
        to: chrono::DateTime::from_timestamp_millis(1_763_900_060_123),
        limit: 500,
        offset: 20,
        lead_phone_number: E164::from_canonical("+14155550123"),
    }
}

#[tokio::test]
async fn reading_requests_are_written_as_documented() {
    let body = r#"{"status":"ok","response":{"pagination":{"total_records":0},"calls":[]}}"#;
    let (base, requests) = server(answer("200 OK", "", body));
    let client = client(&base);
    let model_id = ModelId::parse("a/b?c").unwrap();
    let _ = client.list_calls(&list_filter()).await.unwrap();
    let _ = client.get_call(&CallId::parse("c d").unwrap()).await;
    let _ = client.assistant(&model_id).await;
    client.probe_key().await.unwrap();
    client.attach_numbers(&model_id, &[E164::from_canonical("+14155550123").unwrap()]).await.unwrap();
    client.attach_slugs(&model_id, &["14155550123".into()]).await.unwrap();
    client.detach_slug(&model_id, "14155550123").await.unwrap();
    assert!(client.detach_slug(&model_id, "..").await.is_err());
    let seen: Vec<String> = requests.try_iter().collect();
    let lines: Vec<&str> = seen.iter().map(|r| r.lines().next().unwrap()).collect();
    let expected = [
        "GET /v2/calls?model_id=a%2Fb%3Fc&limit=100&offset=20&from_date=1763900000123&to_date=1763900060123&lead_phone_number=%2B14155550123 HTTP/1.1",
        "GET /v2/calls/c%20d HTTP/1.1",
        "GET /v2/assistants/a%2Fb%3Fc HTTP/1.1",
        "GET /v2/assistants/?limit=1&offset=0 HTTP/1.1",
        "PUT /v2/assistants/a%2Fb%3Fc/phone_numbers HTTP/1.1",
        "PUT /v2/assistants/a%2Fb%3Fc/phone_numbers HTTP/1.1",
        "DELETE /v2/assistants/a%2Fb%3Fc/phone_numbers/14155550123 HTTP/1.1",
    ];
    assert_eq!(lines, expected);
    assert!(seen[4].ends_with(r#"{"phone_numbers":["+14155550123"]}"#), "{}", seen[4]);
    assert!(seen[5].ends_with(r#"{"phone_number_slugs":["14155550123"]}"#), "{}", seen[5]);
}

#[tokio::test]
async fn errors_of_reading_requests_are_told_apart() {
    let read = async |then| {
        let (base, _requests) = server(then);
        client(&base).list_calls(&list_filter()).await.unwrap_err()
    };
    let detail = r#"{"detail":"No"}"#;
    let unauthorized = read(answer("401 No", "", detail)).await;
    assert_eq!(unauthorized, ProviderError::Unauthorized { status: 401, text: Some("No".into()) });
    assert_eq!(read(answer("404 No", "", detail)).await, ProviderError::NotFound { text: Some("No".into()) });
    let busy = read(answer("429 Slow", "Retry-After: 3\r\n", detail)).await;
    assert_eq!(busy, ProviderError::RateLimited { retry_after: Some(Duration::from_secs(3)) });
    assert!(matches!(read(answer("400 No", "", detail)).await, ProviderError::Rejected { status: 400, .. }));
    for then in [answer("503 No", "", "<b>x</b>"), answer("302 Found", "", ""), Then::Reset, Then::Hang] {
        let error = read(then).await;
        assert!(matches!(error, ProviderError::Unavailable(_)), "{error:?}");
        assert!(!error.to_string().contains("4155550123"), "{error}");
    }
    let unreadable = read(answer("200 OK", "", "<html>")).await;
    assert!(matches!(unreadable, ProviderError::Unreadable(_)), "{unreadable:?}");
}

#[test]
fn a_bad_configuration_says_what_is_wrong() {
    let fault = |base: &str, key: &str| match Client::new(&ClientConfig::new(base, SecretString::from(key))) {
        Err(error) => error.to_string(),
        Ok(_) => "none".to_owned(),
    };
    for (base, expected) in [
        ("https://api.us.synthflow.ai", "doesn't end in /v2"),
        ("https://api.us.synthflow.ai/v2/", "doesn't end in /v2"),
        ("api.us.synthflow.ai/v2", "is not a URL"),
        ("ftp://api.us.synthflow.ai/v2", "is not an http or https URL"),
        ("https://api.us.synthflow.ai/v2?x=/v2", "has a query"),
    ] {
        let told = fault(base, "key");
        assert!(told.contains(expected) && told.contains("https://api.us.synthflow.ai/v2 does"), "{told}");
    }
    let told = fault("https://user:hunter2@api.us.synthflow.ai/v2", "key");
    assert!(told.contains("user name or password") && !told.contains("hunter2"), "{told}");
    assert!(fault("http://127.0.0.1:1/v2", "").contains("is empty"));
    let told = fault("http://127.0.0.1:1/v2", "secret\n");
    assert!(told.contains("line end") && !told.contains("secret"), "{told}");
    assert_eq!(fault("http://127.0.0.1:1/v2", "key"), "none");
}

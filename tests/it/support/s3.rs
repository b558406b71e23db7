//! S3: places in the bucket that `scripts/with-services` made, a proxy that spoils answers, a store that ignores conditions.

use super::env;
use super::kafka::unique;
use conjoin::env::{BucketSpec, BucketStore, Place, Store};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A prefix that no other test uses.
pub fn place(endpoint: &str, name: &str) -> BucketSpec {
    let text = format!("s3://{}/{}", env("S3_BUCKET"), unique(name));
    let Ok(Place::Bucket(spec)) = Place::parse(&text) else { panic!("{text}") };
    BucketSpec { options: options(endpoint), ..spec }
}

pub fn options(endpoint: &str) -> BTreeMap<String, String> {
    let options = [
        ("endpoint", endpoint.to_owned()),
        ("allow_http", "true".to_owned()),
        ("access_key_id", env("S3_ACCESS_KEY_ID")),
        ("secret_access_key", env("S3_SECRET_ACCESS_KEY")),
        ("region", "us-east-1".to_owned()),
    ];
    options.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

pub fn endpoint() -> String {
    env("S3_ENDPOINT")
}

/// Straight to the server.
pub fn store(spec: &BucketSpec) -> Arc<dyn Store> {
    Arc::new(BucketStore::open(&BucketSpec { options: options(&endpoint()), ..spec.clone() }).unwrap())
}

/// The connection of a pipeline file.
pub fn connection(endpoint: &str) -> String {
    let bucket = env("S3_BUCKET");
    format!(
        "lake: {{ bucket: {{ url: \"s3://{bucket}\", endpoint: \"{endpoint}\", allow_http: true, options: {{ \
         access_key_id: \"${{S3_ACCESS_KEY_ID}}\", secret_access_key: \"${{S3_SECRET_ACCESS_KEY}}\", region: us-east-1 }} }} }}"
    )
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Pass,
    /// The server does it; the connection breaks before its answer comes.
    Lose,
    /// The server never sees it.
    Status(u16),
    /// The server does it, and answers with this.
    Instead(u16),
    Late(Duration),
}

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// With its query, as it was sent.
    pub target: String,
}

type Rule = Box<dyn FnMut(&Request) -> Answer + Send>;

/// Between the program and the server.
#[derive(Clone)]
pub struct Proxy {
    address: SocketAddr,
    rule: Arc<Mutex<Rule>>,
}

impl Proxy {
    pub fn start() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy =
            Proxy { address: listener.local_addr().unwrap(), rule: Arc::new(Mutex::new(Box::new(|_| Answer::Pass))) };
        let server = endpoint().trim_start_matches("http://").trim_end_matches('/').to_owned();
        let serving = proxy.clone();
        // Ends with the test process.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (proxy, server) = (serving.clone(), server.clone());
                // A broken connection is what half of the tests want.
                std::thread::spawn(move || proxy.serve(client.unwrap(), &server).ok());
            }
        });
        proxy
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn rule(&self, rule: impl FnMut(&Request) -> Answer + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    /// Requests of this kind, from now on, as they come in.
    pub fn spoil(&self, times: usize, matching: fn(&Request) -> bool, answer: Answer) -> Arc<Mutex<usize>> {
        let spoilt = Arc::new(Mutex::new(0));
        let counted = spoilt.clone();
        self.rule(move |request| {
            let mut spoilt = counted.lock().unwrap();
            if *spoilt == times || !matching(request) {
                return Answer::Pass;
            }
            *spoilt += 1;
            answer
        });
        spoilt
    }

    fn serve(&self, mut client: TcpStream, server: &str) -> std::io::Result<()> {
        let mut requests = BufReader::new(client.try_clone()?);
        let mut upstream = TcpStream::connect(server)?;
        let mut answers = BufReader::new(upstream.try_clone()?);
        while let Some(message) = read_message(&mut requests, false)? {
            let request = request_of(&message);
            let answer = (self.rule.lock().unwrap())(&request);
            if let Answer::Status(code) = answer {
                client.write_all(error_answer(code).as_bytes())?;
                continue;
            }
            upstream.write_all(&message)?;
            let Some(response) = read_message(&mut answers, request.method == "HEAD")? else { return Ok(()) };
            match answer {
                Answer::Lose => return Ok(()),
                Answer::Instead(code) => client.write_all(error_answer(code).as_bytes())?,
                Answer::Late(by) => {
                    std::thread::sleep(by);
                    client.write_all(&response)?;
                }
                Answer::Pass | Answer::Status(_) => client.write_all(&response)?,
            }
        }
        Ok(())
    }
}

fn error_answer(code: u16) -> String {
    let body = "<Error><Code>Spoilt</Code></Error>";
    format!("HTTP/1.1 {code} Spoilt\r\ncontent-type: application/xml\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn request_of(message: &[u8]) -> Request {
    let line = String::from_utf8_lossy(message.split(|byte| *byte == b'\r').next().unwrap()).into_owned();
    let mut words = line.split(' ').map(str::to_owned);
    Request { method: words.next().unwrap(), target: words.next().unwrap() }
}

/// One request or answer with its body, as it came; `None` at the end of the connection.
fn read_message(from: &mut impl BufRead, head_only: bool) -> std::io::Result<Option<Vec<u8>>> {
    let mut message = Vec::new();
    let (mut length, mut chunked, mut without_body) = (0_usize, false, head_only);
    loop {
        let start = message.len();
        if from.read_until(b'\n', &mut message)? == 0 {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&message[start..]).trim().to_ascii_lowercase();
        if start == 0 {
            without_body |= line.starts_with("http/1.1 204") || line.starts_with("http/1.1 304");
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        chunked |= line.starts_with("transfer-encoding:") && line.contains("chunked");
        if line.is_empty() {
            break;
        }
    }
    if without_body {
        return Ok(Some(message));
    }
    if !chunked {
        let start = message.len();
        message.resize(start + length, 0);
        from.read_exact(&mut message[start..])?;
        return Ok(Some(message));
    }
    loop {
        let start = message.len();
        from.read_until(b'\n', &mut message)?;
        let size = usize::from_str_radix(String::from_utf8_lossy(&message[start..]).trim(), 16).unwrap();
        let start = message.len();
        message.resize(start + size + 2, 0);
        from.read_exact(&mut message[start..])?;
        if size == 0 {
            return Ok(Some(message));
        }
    }
}

/// A store that speaks enough of S3 and overwrites whatever the request says.
pub struct CarelessStore {
    pub endpoint: String,
    pub objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
}

impl CarelessStore {
    pub fn start() -> CarelessStore {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>> = Arc::default();
        let held = objects.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let held = held.clone();
                std::thread::spawn(move || careless(client.unwrap(), &held).ok());
            }
        });
        CarelessStore { endpoint, objects }
    }
}

fn careless(mut client: TcpStream, objects: &Mutex<BTreeMap<String, Vec<u8>>>) -> std::io::Result<()> {
    let mut requests = BufReader::new(client.try_clone()?);
    while let Some(message) = read_message(&mut requests, false)? {
        let Request { method, target } = request_of(&message);
        let body = message.windows(4).position(|at| at == b"\r\n\r\n").map(|at| message[at + 4..].to_vec()).unwrap();
        let mut objects = objects.lock().unwrap();
        let (code, body) = match method.as_str() {
            "PUT" => {
                objects.insert(target, body);
                ("200 OK", Some(Vec::new()))
            }
            "GET" | "HEAD" => match objects.get(&target) {
                Some(bytes) => ("200 OK", Some(bytes.clone())),
                None => ("404 Not Found", None),
            },
            // Deletes come as a list.
            _ => ("200 OK", Some(b"<DeleteResult><Deleted><Key>x</Key></Deleted></DeleteResult>".to_vec())),
        };
        drop(objects);
        let body = body.unwrap_or_default();
        let head = format!(
            "HTTP/1.1 {code}\r\netag: \"x\"\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        client.write_all(head.as_bytes())?;
        if method != "HEAD" {
            client.write_all(&body)?;
        }
    }
    Ok(())
}

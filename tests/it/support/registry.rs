//! The schema registry for tests: schemas are registered in a real one, and a door before it can be shut.

use super::env;
use serde_json::{Value as Json, json};
use std::io::{ErrorKind, copy};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

/// Registers a schema under a subject of its own; `references` are (name, subject). The id that it got.
pub fn register(subject: &str, kind: &str, schema: &str, references: &[(&str, &str)]) -> u32 {
    let references: Vec<Json> =
        references.iter().map(|(name, of)| json!({ "name": name, "subject": of, "version": 1 })).collect();
    let body = json!({ "schema": schema, "schemaType": kind, "references": references });
    let url = format!("{}/subjects/{subject}/versions", env("REGISTRY_URL"));
    let mut answer = ureq::post(&url).send_json(body).unwrap_or_else(|error| panic!("{url}: {error}"));
    let answer: Json = answer.body_mut().read_json().expect("an answer in JSON");
    answer["id"].as_u64().unwrap_or_else(|| panic!("no id in {answer}")) as u32
}

/// An address before the registry, at which nobody answers until it is opened.
pub struct Door {
    pub url: String,
    at: SocketAddr,
    behind: String,
}

impl Door {
    pub fn shut() -> Door {
        let url = env("REGISTRY_URL");
        let rest = url.strip_prefix("http://").expect("a plain URL");
        let (behind, path) = rest.split_once('/').expect("a path");
        // The port is free again at once, and nobody else is given it for a while.
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Door { url: format!("http://{at}/{path}"), at, behind: behind.to_string() }
    }

    /// Lets through whoever comes from now on.
    pub fn open(&self) {
        let (listener, behind) = (TcpListener::bind(self.at).expect("the port is still free"), self.behind.clone());
        thread::spawn(move || {
            for client in listener.incoming().map(Result::unwrap) {
                let server = TcpStream::connect(&behind).unwrap();
                pass(client.try_clone().unwrap(), server.try_clone().unwrap());
                pass(server, client);
            }
        });
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    thread::spawn(move || {
        match copy(&mut from, &mut to) {
            Ok(_) => {}
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}")
            }
        }
        // The other side may be gone already.
        let _ = to.shutdown(Shutdown::Write);
    });
}

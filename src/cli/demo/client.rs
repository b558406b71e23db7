//! Client: the least of HTTP/1.1 that asks Conjoin's own server, over one connection that stays open.
//!
//! Does not: understand chunked answers, redirects or TLS; the server next door sends none.

use serde_json::Value as Json;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 16 << 20;

pub struct Client {
    connection: BufReader<TcpStream>,
    addr: SocketAddr,
}

impl Client {
    pub fn connect(addr: SocketAddr) -> Result<Client, String> {
        let connect = || {
            let connection = TcpStream::connect_timeout(&addr, TIMEOUT)?;
            connection.set_nodelay(true)?;
            connection.set_read_timeout(Some(TIMEOUT))?;
            Ok(connection)
        };
        let connection = connect().map_err(|error: std::io::Error| format!("cannot reach http://{addr}: {error}"))?;
        Ok(Client { connection: BufReader::new(connection), addr })
    }

    /// Posts JSON; an answer that is not 200 is an error with the server's own words.
    pub fn post(&mut self, path: &str, body: &Json) -> Result<Json, String> {
        let failed = |problem: &dyn std::fmt::Display| format!("POST http://{}{path}: {problem}", self.addr);
        let text = body.to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{text}",
            self.addr,
            text.len()
        );
        self.connection.get_mut().write_all(request.as_bytes()).map_err(|error| failed(&error))?;
        let (status, answer) = read_answer(&mut self.connection).map_err(|error| failed(&error))?;
        let json: Json = serde_json::from_slice(&answer).map_err(|error| failed(&error))?;
        match status {
            200 => Ok(json),
            _ => Err(failed(&format!("{status} {json}"))),
        }
    }
}

fn read_answer(connection: &mut impl BufRead) -> std::io::Result<(u16, Vec<u8>)> {
    let wrong = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
    let mut line = String::new();
    connection.read_line(&mut line)?;
    let status =
        line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| wrong("no status line"))?;
    let mut length = None;
    loop {
        line.clear();
        connection.read_line(&mut line)?;
        let header = line.trim_end();
        if header.is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse::<usize>().ok();
        }
    }
    let length = length.filter(|length| *length <= ANSWER_BYTES_MAX).ok_or_else(|| wrong("no usable length"))?;
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    Ok((status, body))
}

//! HTTP/1.1 messages, read whole: a head as it came, a body without its framing.

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::net::TcpStream;

/// Longest head that is taken.
const MAX_HEAD: usize = 64 << 10;
/// Longest body that is taken.
const MAX_BODY: usize = 1 << 30;

/// A request or an answer.
#[derive(Debug, Clone)]
pub struct Message {
    /// The first line, without its end.
    pub start: String,
    /// The headers as they came, without those that frame the body.
    pub headers: Vec<String>,
    /// The body.
    pub body: Vec<u8>,
    /// Whether the body's length is announced at all: not for an answer to HEAD, whose own header stays.
    has_body: bool,
}

impl Message {
    /// An answer made here.
    pub fn answer(status: &str, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            start: format!("HTTP/1.1 {status}"),
            headers: vec![format!("content-type: {content_type}")],
            body: body.into(),
            has_body: true,
        }
    }

    /// Reads a request; `None` when the connection was closed between two.
    pub fn read_request(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Self>> {
        let Some((start, headers)) = read_head(stream)? else { return Ok(None) };
        read_rest(stream, start, headers, Body::OnlyAnnounced).map(Some)
    }

    /// Reads the answer to a request.
    pub fn read_answer(stream: &mut BufReader<TcpStream>, request: &Self) -> io::Result<Self> {
        let (start, headers) = read_head(stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = start.split(' ').nth(1).unwrap_or_default();
        if request.start.starts_with("HEAD ") || matches!(status, "204" | "304") {
            return Ok(Self { start, headers, body: Vec::new(), has_body: false });
        }
        read_rest(stream, start, headers, Body::UntilTheEnd)
    }

    /// The path and query of a request.
    pub fn path(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// The head and the body, with the body's length said to be `announced`.
    pub fn bytes(&self, announced: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.body.len() + 512);
        for line in std::iter::once(&self.start).chain(&self.headers) {
            bytes.extend_from_slice(line.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        if self.has_body {
            bytes.extend_from_slice(format!("content-length: {announced}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// The same with another body.
    pub fn with_body(self, body: String) -> Self {
        Self { body: body.into_bytes(), ..self }
    }
}

/// What a message without any framing means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Body {
    /// A request has no body then.
    OnlyAnnounced,
    /// An answer ends with the connection then.
    UntilTheEnd,
}

fn read_head(stream: &mut BufReader<TcpStream>) -> io::Result<Option<(String, Vec<String>)>> {
    let mut lines = Vec::new();
    let mut size = 0;
    loop {
        let mut line = Vec::new();
        let read = stream.by_ref().take(MAX_HEAD as u64).read_until(b'\n', &mut line)?;
        size += read;
        if read == 0 && lines.is_empty() {
            return Ok(None);
        }
        if read == 0 || size > MAX_HEAD {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
        if text.is_empty() {
            break;
        }
        lines.push(text);
    }
    if lines.is_empty() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let headers = lines.split_off(1);
    Ok(lines.pop().map(|start| (start, headers)))
}

fn read_rest(
    stream: &mut BufReader<TcpStream>,
    start: String,
    mut headers: Vec<String>,
    unframed: Body,
) -> io::Result<Message> {
    let value = |headers: &[String], wanted: &str| {
        headers.iter().find_map(|header| {
            let (name, value) = header.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim().to_ascii_lowercase())
        })
    };
    let length = value(&headers, "content-length");
    let chunked = value(&headers, "transfer-encoding").is_some_and(|coding| coding.contains("chunked"));
    let body = match length {
        _ if chunked => read_chunks(stream)?,
        Some(length) => {
            let length = length.parse().map_err(|_| io::ErrorKind::InvalidData)?;
            read_exactly(stream, length)?
        }
        None if unframed == Body::OnlyAnnounced => Vec::new(),
        None => {
            let mut body = Vec::new();
            stream.by_ref().take(MAX_BODY as u64).read_to_end(&mut body)?;
            body
        }
    };
    headers.retain(|header| {
        let name = header.split(':').next().unwrap_or_default();
        !name.eq_ignore_ascii_case("content-length") && !name.eq_ignore_ascii_case("transfer-encoding")
    });
    Ok(Message { start, headers, body, has_body: true })
}

fn read_exactly(stream: &mut BufReader<TcpStream>, length: usize) -> io::Result<Vec<u8>> {
    if length > MAX_BODY {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(body)
}

fn read_chunks(stream: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(digits, 16).map_err(|_| io::ErrorKind::InvalidData)?;
        if body.len().saturating_add(size) > MAX_BODY {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if size == 0 {
            // Trailers, which nobody here sends, and the empty line.
            while stream.read_line(&mut String::new())? > 2 {}
            return Ok(body);
        }
        body.extend(read_exactly(stream, size)?);
        read_exactly(stream, 2)?;
    }
}

//! A pooler that hands one session of the server from client to client: each time to whoever asks next, for one transaction.
//!
//! It is a stand-in for `PgBouncer` with `pool_mode = transaction` and one session, not `PgBouncer`: whoever comes after the
//! client that showed the password is let in without one, nothing is reset or tracked between clients, and it knows neither
//! TLS nor cancelling.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use secrecy::SecretString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::{Database, connect};

/// Welcome, and ask.
const COME_IN: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

pub struct Pooler {
    url: String,
    accepting: JoinHandle<()>,
}

/// The server's only session, once a client has logged in.
type Session = Arc<Mutex<Option<TcpStream>>>;

impl Pooler {
    /// One in front of the server of that database.
    pub async fn start(database: &Database) -> Self {
        let (login, server) = database.text().rsplit_once('@').unwrap();
        let (upstream, path) = server.split_once('/').unwrap();
        let name = path.split('?').next().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let url = format!("{login}@{address}/{name}?sslmode=disable");
        let (upstream, session) = (upstream.to_owned(), Session::default());
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (upstream, session) = (upstream.clone(), Arc::clone(&session));
                tokio::spawn(async move {
                    // However the client ends.
                    let _ = serve(client, &upstream, session).await;
                });
            }
        });
        Self { url, accepting }
    }

    /// The URL of the same database through the pooler.
    pub fn url(&self) -> SecretString {
        SecretString::from(self.url.as_str())
    }

    /// One text, asked by another client.
    pub async fn text(&self, query: &'static str) -> String {
        let row = sqlx::raw_sql(query).fetch_one(&mut connect(&self.url).await).await.unwrap();
        sqlx::Row::get(&row, 0)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut client: TcpStream, upstream: &str, session: Session) -> io::Result<()> {
    client.set_nodelay(true)?;
    welcome(&mut client, upstream, &session).await?;
    let mut held = None;
    loop {
        let Some(asked) = question(&mut client).await? else { return Ok(()) };
        let mut lent = match held.take() {
            Some(lent) => lent,
            None => Arc::clone(&session).lock_owned().await,
        };
        let server = lent.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        server.write_all(&asked).await?;
        let is_over = loop {
            let answer = message(server).await?;
            client.write_all(&answer).await?;
            if answer[0] == b'Z' {
                break answer[5] == b'I';
            }
        };
        if !is_over {
            held = Some(lent);
        }
    }
}

/// Lets the client log in at the server, if it is the first, and else just lets it in.
async fn welcome(client: &mut TcpStream, upstream: &str, session: &Session) -> io::Result<()> {
    let mut start = Vec::new();
    body(client, &mut start).await?;
    let mut session = session.lock().await;
    if session.is_some() {
        return client.write_all(COME_IN).await;
    }
    let mut server = TcpStream::connect(upstream).await?;
    server.set_nodelay(true)?;
    server.write_all(&start).await?;
    loop {
        let answer = message(&mut server).await?;
        client.write_all(&answer).await?;
        match answer[0] {
            b'Z' => break,
            b'E' => return Ok(()),
            // It asks for something, but where it says that all is well (0), and at the end of SCRAM (12).
            b'R' if !matches!(answer[8], 0 | 12) => server.write_all(&message(client).await?).await?,
            _ => {}
        }
    }
    *session = Some(server);
    Ok(())
}

/// All messages up to one that is answered as a whole; `None` if the client says goodbye.
async fn question(client: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut asked = Vec::new();
    loop {
        let next = message(client).await?;
        asked.extend_from_slice(&next);
        match next[0] {
            b'X' => return Ok(None),
            b'Q' | b'S' => return Ok(Some(asked)),
            _ => {}
        }
    }
}

/// A kind and its body, as they came.
async fn message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![stream.read_u8().await?];
    body(stream, &mut message).await?;
    Ok(message)
}

/// A length, which counts itself, and what follows.
async fn body(stream: &mut TcpStream, message: &mut Vec<u8>) -> io::Result<()> {
    let length = stream.read_u32().await?;
    message.extend_from_slice(&length.to_be_bytes());
    let from = message.len();
    message.resize(from + usize::try_from(length).unwrap() - 4, 0);
    stream.read_exact(&mut message[from..]).await?;
    Ok(())
}

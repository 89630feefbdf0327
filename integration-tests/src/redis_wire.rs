//! One command to a Redis, and its reply.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

/// A reply in RESP2.
#[derive(Debug)]
pub(crate) enum Reply {
    /// A string of either kind, or a number as text.
    Text(Vec<u8>),
    /// An error, with its code.
    Error(String),
    /// A missing string or array.
    Nothing,
    Array(Vec<Reply>),
}

impl Reply {
    /// Returns the reply as text, as `redis-cli` shows it; of an array, the number of its elements.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text,
            Self::Error(error) => format!("({error})").into_bytes(),
            Self::Nothing => b"(nil)".to_vec(),
            Self::Array(elements) => elements.len().to_string().into_bytes(),
        }
    }

    /// Returns the elements of an array as [`into_bytes`](Self::into_bytes) shows them. A reply of another
    /// kind has none.
    pub(crate) fn into_elements(self) -> Vec<Vec<u8>> {
        let Self::Array(elements) = self else { return Vec::new() };
        elements.into_iter().map(Self::into_bytes).collect()
    }
}

/// Connects to this port of the loopback, logs in with the password if there is one, sends a
/// command and returns its reply.
///
/// # Errors
///
/// If the server is not there, or does not answer within 10 s.
pub(crate) fn request(port: u16, password: Option<&str>, arguments: &[&[u8]]) -> io::Result<Reply> {
    let mut wire = BufReader::new(TcpStream::connect(("127.0.0.1", port))?);
    wire.get_ref().set_read_timeout(Some(Duration::from_secs(10)))?;
    if let Some(password) = password {
        wire.get_mut().write_all(&encode(&[b"AUTH", password.as_bytes()]))?;
        read(&mut wire)?;
    }
    wire.get_mut().write_all(&encode(arguments))?;
    read(&mut wire)
}

fn encode(arguments: &[&[u8]]) -> Vec<u8> {
    let mut command = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        command.extend(format!("${}\r\n", argument.len()).into_bytes());
        command.extend_from_slice(argument);
        command.extend_from_slice(b"\r\n");
    }
    command
}

fn read(wire: &mut BufReader<TcpStream>) -> io::Result<Reply> {
    let mut line = Vec::new();
    wire.read_until(b'\n', &mut line)?;
    let Some((&kind, text)) = line.strip_suffix(b"\r\n").and_then(<[u8]>::split_first) else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let text = String::from_utf8_lossy(text).into_owned();
    let length = || text.parse::<usize>().map_err(io::Error::other);
    Ok(match kind {
        b'$' | b'*' if text == "-1" => Reply::Nothing,
        b'$' => {
            let mut bytes = vec![0; length()? + 2];
            wire.read_exact(&mut bytes)?;
            bytes.truncate(bytes.len() - 2);
            Reply::Text(bytes)
        }
        b'*' => Reply::Array((0..length()?).map(|_| read(wire)).collect::<io::Result<_>>()?),
        b'-' => Reply::Error(text),
        _ => Reply::Text(text.into_bytes()),
    })
}

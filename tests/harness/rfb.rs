//! The beginning of a VNC connection: as much of RFB (RFC 6143) as shows whether a password is
//! taken.

use std::io;
use std::net::SocketAddr;

use des::Des;
use des::cipher::generic_array::GenericArray;
use des::cipher::{BlockEncrypt, KeyInit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{Error, Result};

/// What the server made of a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Let in.
    Accepted,
    /// Not let in.
    Refused,
    /// It asks for none, and would let anybody in.
    Open,
}

/// Try a password.
///
/// # Errors
/// If nobody listens there, or it is no VNC server.
pub async fn try_password(at: SocketAddr, password: &str) -> Result<Verdict> {
    greet(at, password).await.map_err(Error::io(format!("speaking RFB to {at}")))
}

async fn greet(at: SocketAddr, password: &str) -> io::Result<Verdict> {
    /// Security types.
    const NONE: u8 = 1;
    const PASSWORD: u8 = 2;
    const VERSION: &[u8; 12] = b"RFB 003.008\n";
    let mut server = TcpStream::connect(at).await?;
    let mut version = [0; 12];
    server.read_exact(&mut version).await?;
    if version != *VERSION {
        return Err(io::Error::other(format!("it says {:?}", String::from_utf8_lossy(&version))));
    }
    server.write_all(VERSION).await?;
    let mut types = vec![0; server.read_u8().await?.into()];
    server.read_exact(&mut types).await?;
    if types.contains(&NONE) {
        return Ok(Verdict::Open);
    }
    if !types.contains(&PASSWORD) {
        return Err(io::Error::other(format!("it offers {types:?}")));
    }
    server.write_u8(PASSWORD).await?;
    let mut challenge = [0; 16];
    server.read_exact(&mut challenge).await?;
    server.write_all(&answer(challenge, password)).await?;
    match server.read_u32().await? {
        0 => Ok(Verdict::Accepted),
        _ => Ok(Verdict::Refused),
    }
}

/// The challenge encrypted by DES, whose key is the password with the bits of each byte turned
/// round.
fn answer(mut challenge: [u8; 16], password: &str) -> [u8; 16] {
    let mut key = [0; 8];
    for (key, letter) in key.iter_mut().zip(password.bytes()) {
        *key = letter.reverse_bits();
    }
    let cipher = Des::new(&GenericArray::from(key));
    for block in challenge.chunks_exact_mut(8) {
        cipher.encrypt_block(GenericArray::from_mut_slice(block));
    }
    challenge
}

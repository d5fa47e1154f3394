//! Messages of any length over a vchan, with the codecs of tokio-util.
//!
//! A vchan carries bytes and keeps no boundaries. A codec puts them in: here every message goes
//! behind four bytes that hold its length. A message may be longer than the ring.
//!
//! Domain 2 counts the words of every message that domain 0 sends. Both live on an emulated host in
//! this process; on Xen each would be a program in its own domain, with `vchan::xen::host()`.
//!
//!     cargo run -p vchan --features tokio --example frames

use std::error::Error;

use futures_util::{SinkExt, StreamExt};
use tokio_util::codec::{Framed, LengthDelimitedCodec};
use vchan::tokio::Channel;
use vchan::{Client, DomId, Host, Server};
use vchan_emulator::Emulator;

/// The same limit on both sides: no peer can make this one hold more than that.
fn framed(channel: Channel) -> Framed<Channel, LengthDelimitedCodec> {
    let codec = LengthDelimitedCodec::builder()
        .max_frame_length(1024 * 1024)
        .new_codec();
    Framed::new(channel, codec)
}

/// Answers every message with the number of its words, until the client closes.
async fn count_words(mut server: Server) -> Result<(), Box<dyn Error>> {
    let mut messages = framed(server.accept_async().await?);
    while let Some(message) = messages.next().await {
        let count = String::from_utf8_lossy(&message?)
            .split_whitespace()
            .count();
        messages.send(count.to_string().as_bytes()).await?;
    }
    Ok(())
}

/// Sends the texts, one message each, and gives the answers.
async fn ask(host: Host, server: DomId, texts: &[String]) -> Result<Vec<String>, Box<dyn Error>> {
    let mut messages = framed(Client::builder(&host, server).connect_async().await?);
    let mut answers = Vec::new();
    for text in texts {
        messages.send(text.as_bytes()).await?;
        let answer = messages.next().await.ok_or("the server has closed")??;
        answers.push(String::from_utf8(answer.to_vec())?);
    }
    Ok(answers)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let guest = DomId::new(2)?;
    let emulator = Emulator::start()?;
    emulator.add_domain(DomId::DOM0)?;
    emulator.add_domain(guest)?;

    // Rings of 4 KiB, and one message much longer than that.
    let server = Server::builder(&emulator.host(guest)?, DomId::DOM0)
        .read_size(4096)
        .write_size(4096)
        .bind()?;
    let texts = [
        "hello from dom0".into(),
        String::new(),
        "word ".repeat(100_000),
    ];
    let dom0 = emulator.host(DomId::DOM0)?;
    let ((), answers) = tokio::try_join!(count_words(server), ask(dom0, guest, &texts))?;

    println!("words: {}", answers.join(", "));
    assert_eq!(answers, ["3", "0", "100000"]);
    Ok(())
}

#[test]
fn messages_of_any_length_are_counted() -> Result<(), Box<dyn Error>> {
    main()
}

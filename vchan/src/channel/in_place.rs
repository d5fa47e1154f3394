//! Working on the ring's bytes where they lie: reserve and commit, peek and consume.

use super::{Channel, ReadHalf, WriteHalf};
use crate::Error;
use crate::endpoint::{Reader, Writer};
use crate::memory::{SharedSlice, SharedSliceMut};

/// Free space of the ring, to be filled and then published by [`commit`](Reservation::commit).
///
/// Made by [`WriteHalf::reserve`] and its like. The peer sees nothing of it before the commit, and
/// nothing ever when it is dropped without one. (Nothing it should look at: the pages are shared, so
/// a peer that breaks the protocol can look earlier, and can change what was written.)
#[derive(Debug)]
#[must_use = "what is not committed is not sent"]
pub struct Reservation<'a> {
    writer: &'a mut Writer,
    len: usize,
}

impl<'a> Reservation<'a> {
    #[inline]
    pub(crate) fn new(writer: &'a mut Writer, len: usize) -> Reservation<'a> {
        Reservation { writer, len }
    }

    /// How many bytes there is room for.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is room for none.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The space, in order. The second part is empty unless it goes around the end of the ring.
    #[inline]
    pub fn parts(&mut self) -> [SharedSliceMut<'_>; 2] {
        self.writer.parts(self.len)
    }

    /// Copies `from` into the space from `offset` on, wherever it is divided.
    ///
    /// # Panics
    /// When it does not fit.
    #[inline]
    pub fn write_at(&mut self, offset: usize, from: &[u8]) {
        let end = offset.checked_add(from.len());
        assert!(end.is_some_and(|end| end <= self.len), "outside of it");
        self.writer.place(offset, from);
    }

    /// Publishes the first `len` bytes. What of them was not written is what lay in the ring there.
    ///
    /// # Errors
    /// [`Error::NotHeld`] when there is no room for so many; nothing is published then.
    #[inline]
    pub fn commit(self, len: usize) -> Result<(), Error> {
        held(len, self.len)?;
        self.writer.publish(len);
        Ok(())
    }
}

/// Bytes of the ring that were not read yet, to be looked at and then given back by
/// [`consume`](Peek::consume).
///
/// Made by [`ReadHalf::peek`] and its like. Dropped without a `consume`, it leaves them to be read.
/// The peer can change them while they are there: what is checked must be what was copied out.
#[derive(Debug)]
#[must_use = "what is not consumed stays to be read"]
pub struct Peek<'a> {
    reader: &'a mut Reader,
    len: usize,
}

impl<'a> Peek<'a> {
    #[inline]
    pub(crate) fn new(reader: &'a mut Reader, len: usize) -> Peek<'a> {
        Peek { reader, len }
    }

    /// How many bytes are there.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none are.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes, in order. The second part is empty unless they go around the end of the ring.
    #[must_use]
    #[inline]
    pub fn parts(&self) -> [SharedSlice<'_>; 2] {
        self.reader.parts(self.len)
    }

    /// Copies the bytes from `offset` on into `to`, wherever they are divided.
    ///
    /// # Panics
    /// When there are not so many.
    #[inline]
    pub fn read_at(&self, offset: usize, to: &mut [u8]) {
        let end = offset.checked_add(to.len());
        assert!(end.is_some_and(|end| end <= self.len), "outside of it");
        self.reader.fetch(offset, to);
    }

    /// Takes the first `len` bytes out of the stream and gives their space back to the peer.
    ///
    /// # Errors
    /// [`Error::NotHeld`] when there are not so many; nothing is consumed then.
    #[inline]
    pub fn consume(self, len: usize) -> Result<(), Error> {
        held(len, self.len)?;
        self.reader.release(len);
        Ok(())
    }
}

#[inline]
fn held(size: usize, held: usize) -> Result<(), Error> {
    if size > held {
        return Err(Error::NotHeld { size, held });
    }
    Ok(())
}

impl WriteHalf {
    /// Gives the free space of the ring, at least `min` bytes, waiting until there is so much. The
    /// bytes are written where the peer reads them, and [committed](Reservation::commit) in one
    /// publication: no buffer of one's own, and as many messages as fit. Zero does not wait.
    ///
    /// ```
    /// # let emulator = vchan_emulator::Emulator::start()?;
    /// # emulator.add_domain(vchan::DomId::DOM0)?;
    /// # emulator.add_domain(vchan::DomId::new(2)?)?;
    /// # let host = emulator.host(vchan::DomId::DOM0)?;
    /// # let guest = emulator.host(vchan::DomId::new(2)?)?;
    /// # let mut server = vchan::Server::builder(&guest, vchan::DomId::DOM0).bind()?;
    /// # let (mut reading, _) = vchan::Client::builder(&host, vchan::DomId::new(2)?).connect()?.into_split();
    /// # let (_, mut writing) = server.accept()?.into_split();
    /// // Two messages of two bytes' length and the text, in one publication.
    /// let mut space = writing.reserve(64)?;
    /// let mut at = 0;
    /// for text in ["hello", "world"] {
    ///     space.write_at(at, &u16::try_from(text.len())?.to_le_bytes());
    ///     space.write_at(at + 2, text.as_bytes());
    ///     at += 2 + text.len();
    /// }
    /// space.commit(at)?;
    ///
    /// writing.shutdown();
    ///
    /// let mut texts = Vec::new();
    /// loop {
    ///     // The length says for how much to wait; it is copied out once.
    ///     let mut length = [0; 2];
    ///     let header = reading.peek(2)?;
    ///     if header.is_empty() {
    ///         break; // the end
    ///     }
    ///     header.read_at(0, &mut length);
    ///     let mut text = vec![0; u16::from_le_bytes(length).into()];
    ///     let message = reading.peek(2 + text.len())?;
    ///     message.read_at(2, &mut text);
    ///     message.consume(2 + text.len())?;
    ///     texts.push(text);
    /// }
    /// assert_eq!(texts, [b"hello", b"world"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`write`](WriteHalf::write); [`Error::TooLarge`] at once when there can never be so much.
    #[inline]
    pub fn reserve(&mut self, min: usize) -> Result<Reservation<'_>, Error> {
        let len = match self.writer.reserve_at_once(min) {
            Some(len) => len,
            None => self.reserve_any(min)?,
        };
        Ok(Reservation::new(&mut self.writer, len))
    }

    #[inline(never)]
    fn reserve_any(&mut self, min: usize) -> Result<usize, Error> {
        self.options
            .run(&mut self.writer, |writer| writer.reserve(min))
    }
}

impl ReadHalf {
    /// Gives the bytes that are there, at least `min` of them, waiting until so many are. They stay
    /// in the ring until they are [consumed](Peek::consume). Zero does not wait.
    ///
    /// At the end of the stream, when everything was read, it gives none, whatever `min` is: ask
    /// [`is_empty`](Peek::is_empty) before reading. See [`WriteHalf::reserve`] for an example.
    ///
    /// # Errors
    /// As [`read`](ReadHalf::read); [`Error::TooLarge`] at once when the ring can never hold so many;
    /// [`Error::EndOfStream`] when the peer closed after some of them, and they stay readable.
    #[inline]
    pub fn peek(&mut self, min: usize) -> Result<Peek<'_>, Error> {
        let len = match self.reader.peek_at_once(min) {
            Some(len) => len,
            None => self.peek_any(min)?,
        };
        Ok(Peek::new(&mut self.reader, len))
    }

    #[inline(never)]
    fn peek_any(&mut self, min: usize) -> Result<usize, Error> {
        self.options
            .run(&mut self.reader, |reader| reader.peek(min))
    }
}

impl Channel {
    /// See [`ReadHalf::peek`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn peek(&mut self, min: usize) -> Result<Peek<'_>, Error> {
        self.reader.peek(min)
    }

    /// See [`WriteHalf::reserve`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn reserve(&mut self, min: usize) -> Result<Reservation<'_>, Error> {
        self.writer.reserve(min)
    }
}

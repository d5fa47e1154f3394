//! How the fields of a message are written and read.

use vchan::memory::Access;

use super::{MOST_PAGES, Notice};

/// Writes fields one after the other.
#[derive(Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn access(&mut self, access: Access) {
        self.byte(u8::from(access == Access::ReadWrite));
    }

    pub(super) fn notice(&mut self, notice: Option<Notice>) {
        self.byte(u8::from(notice.is_some()));
        let Notice { offset, port } = notice.unwrap_or(Notice { offset: 0, port: 0 });
        self.u16(offset);
        self.u32(port);
    }

    pub(super) fn numbers(&mut self, numbers: &[u32]) {
        self.u32(u32::try_from(numbers.len()).unwrap_or(u32::MAX));
        for &number in numbers {
            self.u32(number);
        }
    }

    pub(super) fn text(&mut self, text: &str) {
        self.u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend(text.as_bytes());
    }
}

/// Reads them in the same order; `None` for what nobody of this crate has written.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub(super) fn access(&mut self) -> Option<Access> {
        match self.byte()? {
            0 => Some(Access::ReadOnly),
            1 => Some(Access::ReadWrite),
            _ => None,
        }
    }

    pub(super) fn notice(&mut self) -> Option<Option<Notice>> {
        let present = self.byte()?;
        let notice = Notice {
            offset: self.u16()?,
            port: self.u32()?,
        };
        Some((present != 0).then_some(notice))
    }

    pub(super) fn numbers(&mut self) -> Option<Vec<u32>> {
        let count = usize::try_from(self.u32()?).ok()?;
        if count > MOST_PAGES {
            return None;
        }
        (0..count).map(|_| self.u32()).collect()
    }

    pub(super) fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.u32()?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).ok()
    }

    /// `value`, if the message ends here.
    pub(super) fn end<T>(&self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}

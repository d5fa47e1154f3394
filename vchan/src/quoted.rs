//! What others have written, in a message.

use core::fmt::{self, Write};

/// A text in quotation marks, of which all but printable ASCII is escaped: it may come from anybody,
/// and goes to a person's terminal or to a guest's console. (`{:?}` would bring tables of all that is
/// printable, more than a guest without an operating system needs.)
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars().flat_map(char::escape_default) {
            f.write_char(character)?;
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::Quoted;
    use alloc::string::ToString;

    #[test]
    fn what_could_deceive_is_escaped() {
        assert_eq!(Quoted("7").to_string(), r#""7""#);
        let deceitful = "a\"b\n\u{1b}[2J\u{202e}\u{e4}";
        let told = r#""a\"b\n\u{1b}[2J\u{202e}\u{e4}""#;
        assert_eq!(Quoted(deceitful).to_string(), told);
    }
}

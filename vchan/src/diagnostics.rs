//! What a program says about a handshake, in the words of Mirage's vchan tools.
//!
//! Each function returns whole lines, ready to print.

use alloc::format;
use alloc::string::String;
use core::fmt::Write as _;

use crate::layout::{GRANTS, Ring};
use crate::{DomId, Handshake, StorePath};

/// What a client says once it is connected.
#[must_use]
pub fn client(handshake: &Handshake) -> String {
    format!(
        "Client initializing: Received gntref = {}, evtchn = {}\n\
         Mapped the ring shared page:\n\
         \n\
         {}\
         Correctly bound evtchn number {}\n",
        handshake.ring_ref,
        handshake.event_channel,
        hex_dump(&handshake.page),
        handshake.port
    )
}

/// What a server says before it publishes.
#[must_use]
pub fn server_begins(client: DomId, path: &StorePath) -> String {
    format!("Initializing Server domid={client} xs_path={path}\n")
}

/// What a server says once it has published.
#[must_use]
pub fn server(handshake: &Handshake) -> String {
    let order = |ring| handshake.geometry.order(ring).number();
    let mut text = format!(
        "Server: right_order = {}, left_order = {}\n",
        order(Ring::Right),
        order(Ring::Left)
    );
    for reference in ring_grants(handshake) {
        let _ = writeln!(text, "allocate_buffer_locations: gntref = {reference}");
    }
    let _ = write!(
        text,
        "Writing config into the XenStore\n\
         Shared page is:\n\
         \n\
         {}\
         Initialization done!\n",
        hex_dump(&handshake.page)
    );
    text
}

/// The grant references that stand in the control page: the left ring's, then the right's.
fn ring_grants(handshake: &Handshake) -> impl Iterator<Item = u32> {
    let list = handshake.page.get(GRANTS..).unwrap_or_default();
    list.chunks_exact(4)
        .take(handshake.geometry.grant_count())
        .filter_map(|bytes| bytes.try_into().ok())
        .map(u32::from_le_bytes)
}

/// Sixteen bytes a line.
fn hex_dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(16) {
        text.push_str("   ");
        for byte in line {
            let _ = write!(text, " {byte:02x}");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{GrantRef, Port};
    use crate::layout::{ControlPage, Geometry};

    fn handshake(left: u16, right: u16) -> Handshake {
        let geometry = Geometry::new(left, right).unwrap();
        let references = |ring, from: u32| {
            let pages = u32::try_from(geometry.order(ring).pages()).unwrap();
            (from..from + pages).map(GrantRef).collect::<Vec<_>>()
        };
        let left_grants = references(Ring::Left, 9);
        let right_grants = references(Ring::Right, 11);
        let page = ControlPage {
            geometry,
            left_grants,
            right_grants,
        };
        Handshake {
            ring_ref: GrantRef(8),
            event_channel: Port(4),
            port: Port(71),
            geometry,
            page: page.build(),
        }
    }

    #[test]
    fn a_client_speaks_as_in_the_golden_session() {
        let expected = "\
Client initializing: Received gntref = 8, evtchn = 4
Mapped the ring shared page:

    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
    0d 00 0d 00 02 01 01 00 09 00 00 00 0a 00 00 00
    0b 00 00 00 0c 00 00 00
Correctly bound evtchn number 71
";
        assert_eq!(client(&handshake(13, 13)), expected);
    }

    #[test]
    fn a_server_speaks_as_in_the_golden_session() {
        let path = "data/vchan".parse().unwrap();
        let expected = "\
Initializing Server domid=0 xs_path=data/vchan
Server: right_order = 13, left_order = 13
allocate_buffer_locations: gntref = 9
allocate_buffer_locations: gntref = 10
allocate_buffer_locations: gntref = 11
allocate_buffer_locations: gntref = 12
Writing config into the XenStore
Shared page is:

    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
    0d 00 0d 00 02 01 01 00 09 00 00 00 0a 00 00 00
    0b 00 00 00 0c 00 00 00
Initialization done!
";
        let said = server_begins(DomId::DOM0, &path) + &server(&handshake(13, 13));
        assert_eq!(said, expected);
    }

    #[test]
    fn rings_in_the_control_page_have_no_grants_of_their_own() {
        let said = server(&handshake(10, 11));
        assert!(said.starts_with("Server: right_order = 11, left_order = 10\nWriting config"));
        assert!(!said.contains("gntref"));
    }
}

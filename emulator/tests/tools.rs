//! The XenStore tools of Xen itself on the emulated store.
//!
//! They are taken from `PATH`, or from the directory that `XENSTORE_TOOLS` names, into which the
//! packages `xenstore-utils`, `libxenstore4` and `libxentoolcore1` were unpacked (`dpkg-deb -x`).

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use vchan::DomId;
use vchan_emulator::Emulator;

/// Where the tools are, and what they need to run.
struct Tools {
    directory: PathBuf,
    libraries: OsString,
}

impl Tools {
    fn find() -> Option<Tools> {
        let unpacked = std::env::var_os("XENSTORE_TOOLS").map(PathBuf::from);
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let in_package = unpacked.iter().map(|root| root.join("usr/bin"));
        let directory = in_package
            .chain(std::env::split_paths(&paths))
            .find(|directory| directory.join("xenstore-ls").is_file());
        if directory.is_none() {
            // Past the capture of the test harness, which hides it. `cargo xtask test` counts it.
            let _ = writeln!(
                std::io::stdout(),
                "SKIPPED: the XenStore tools are neither in PATH nor in XENSTORE_TOOLS"
            );
        }
        let libraries = unpacked.as_deref().map(libraries).unwrap_or_default();
        Some(Tools {
            directory: directory?,
            libraries,
        })
    }

    fn command(&self, emulator: &Emulator, domid: u16, tool: &str) -> Command {
        let domain = emulator.domain_directory(DomId::new(domid).unwrap());
        let mut command = Command::new(self.directory.join(tool));
        command
            .env("XENSTORED_PATH", domain.join("xenstored"))
            .env("LD_LIBRARY_PATH", &self.libraries);
        command
    }

    /// What a tool prints, or its complaint.
    fn run(
        &self,
        emulator: &Emulator,
        domid: u16,
        tool: &str,
        arguments: &[&str],
    ) -> Result<String, String> {
        let output = self
            .command(emulator, domid, tool)
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() {
            Ok(text(output.stdout))
        } else {
            Err(text(output.stderr))
        }
    }
}

/// The library directories of unpacked packages, for the dynamic linker.
fn libraries(root: &Path) -> OsString {
    let lib = root.join("usr/lib");
    let inside = std::fs::read_dir(&lib).into_iter().flatten().flatten();
    std::env::join_paths(inside.map(|entry| entry.path()).chain([lib])).unwrap()
}

fn emulator() -> Emulator {
    let emulator = Emulator::start().unwrap();
    for number in [0, 1] {
        emulator.add_domain(DomId::new(number).unwrap()).unwrap();
    }
    emulator
}

#[test]
fn the_tools_read_and_change_the_store() {
    let Some(tools) = Tools::find() else {
        return;
    };
    let emulator = emulator();
    let dom0 = |tool: &str, arguments: &[&str]| tools.run(&emulator, 0, tool, arguments);
    let guest = |tool: &str, arguments: &[&str]| tools.run(&emulator, 1, tool, arguments);
    guest(
        "xenstore-write",
        &["data/vchan/ring-ref", "8", "data/vchan/event-channel", "4"],
    )
    .unwrap();
    assert_eq!(
        guest("xenstore-read", &["data/vchan/ring-ref"]).unwrap(),
        "8\n"
    );
    guest("xenstore-chmod", &["data/vchan/ring-ref", "n1", "r0"]).unwrap();
    let listing = dom0("xenstore-ls", &["-f", "-p", "/local/domain/1"]).unwrap();
    assert_eq!(
        listing,
        "/local/domain/1/name = \"domain-1\"   (n0,r1)\n\
         /local/domain/1/domid = \"1\"   (n0,r1)\n\
         /local/domain/1/data = \"\"   (n1)\n\
         /local/domain/1/data/vchan = \"\"   (n1)\n\
         /local/domain/1/data/vchan/ring-ref = \"8\"   (n1,r0)\n\
         /local/domain/1/data/vchan/event-channel = \"4\"   (n1)\n"
    );
    assert_eq!(
        guest("xenstore-list", &["data/vchan"]).unwrap(),
        "ring-ref\nevent-channel\n"
    );
    assert!(
        guest("xenstore-ls", &["/local/domain/0"])
            .unwrap_err()
            .contains("Permission denied")
    );
    assert!(guest("xenstore-read", &["data/none"]).is_err());
    assert!(guest("xenstore-exists", &["data/vchan"]).is_ok());
    guest("xenstore-rm", &["data/vchan"]).unwrap();
    assert!(guest("xenstore-exists", &["data/vchan"]).is_err());
    emulator.assert_clean();
}

#[test]
fn the_tools_list_more_children_than_one_message_holds() {
    let Some(tools) = Tools::find() else {
        return;
    };
    let emulator = emulator();
    let host = emulator.host(DomId::DOM0).unwrap();
    let names: Vec<String> = (0..500)
        .map(|n| format!("child-with-a-long-name-{n}"))
        .collect();
    for name in &names {
        host.store()
            .write(&format!("/many/{name}").parse().unwrap(), b"")
            .unwrap();
    }
    let listed = tools
        .run(&emulator, 0, "xenstore-list", &["/many"])
        .unwrap();
    assert!(listed.lines().eq(&names));
}

#[test]
fn the_tools_watch() {
    let Some(tools) = Tools::find() else {
        return;
    };
    let emulator = emulator();
    // It ends after three events: the first tells that the watch is set.
    let mut watching = tools.command(&emulator, 1, "xenstore-watch");
    let mut watching = watching
        .args(["-n", "3", "data/vchan"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "data/vchan");
    let dom0 = emulator.host(DomId::DOM0).unwrap();
    let key = "/local/domain/1/data/vchan/ring-ref".parse().unwrap();
    dom0.store().write(&key, b"8").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "data/vchan/ring-ref");
    dom0.store()
        .remove(&"/local/domain/1/data/vchan".parse().unwrap())
        .unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "data/vchan");
    assert!(watching.wait().unwrap().success());
    emulator.assert_clean();
}

//! The guests, started with the real `xl create`.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::program;
use crate::store;

/// How the guest is virtualised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Paravirtualised.
    Pv,
    /// Hardware-assisted without emulated devices.
    Pvh,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pv => "pv",
            Self::Pvh => "pvh",
        })
    }
}

/// What runs in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// The project's echo guest as a Linux guest, by the project's own xl/*.xl.
    EchoGuest,
    /// The same echo on bare Xen, by the project's own xl/*.xl.
    Unikernel,
    /// Debian's libxenvchan: an echo server and client, and vchan-socket-proxy.
    C,
    /// A guest that does what dom0 tells it over a vchan.
    Ordered,
    /// Servers of both libraries that are measured.
    Load,
}

/// A guest that scenarios are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Which {
    /// How it is virtualised.
    pub kind: Kind,
    /// What runs in it.
    pub image: Image,
}

impl Which {
    /// The running guest, or a new one.
    pub fn running(self) -> Result<Guest> {
        Guest::running(self.kind, self.image)
    }

    /// A new guest, whose server may not have published yet.
    pub fn created(self) -> Result<Guest> {
        let name = name_of(self.kind, self.image);
        create(&name, self.kind, self.image)?;
        let domid = domid(&name)?.with_context(|| format!("{name} does not run"))?;
        Ok(Guest { domid, name })
    }
}

/// Directory from which the paths in xl/*.xl are right.
const HOME: &str = "/root";
/// xenconsoled's `guest-<name>.log`.
const CONSOLE_LOGS: &str = "/var/log/xen";

/// A guest that runs.
pub struct Guest {
    /// Its domid, as text: it only ever goes into command lines and paths.
    pub domid: String,
    name: String,
}

impl Guest {
    /// The running guest, or a new one.
    pub fn running(kind: Kind, image: Image) -> Result<Self> {
        let name = name_of(kind, image);
        let domid = match domid(&name)? {
            Some(domid) => domid,
            None => {
                create(&name, kind, image)?;
                domid(&name)?.with_context(|| format!("xl create succeeded, but no {name} runs"))?
            }
        };
        let guest = Self { domid, name };
        // The ordered guest is a client to begin with, and who measures waits for each server.
        if !matches!(image, Image::Ordered | Image::Load) {
            guest.wait_for_server()?;
        }
        Ok(guest)
    }

    /// A new unikernel: `program` of `target/xen`, with `memory` MiB and `extra` as its command line.
    /// If it crashes it stays, to be looked at. It can be rebooted: its path is absolute, and the xl
    /// that stays behind for that works in `/`.
    pub fn unikernel(
        name: &str,
        kind: Kind,
        program: &str,
        memory: u32,
        extra: &str,
    ) -> Result<Self> {
        let path = format!("/tmp/{name}.xl");
        fs::write(
            &path,
            format!(
                "name = \"{name}\"\ntype = \"{kind}\"\nmemory = {memory}\nvcpus = 1\n\
                 kernel = \"{HOME}/target/xen/{program}.xen\"\nextra = \"{extra}\"\n\
                 on_crash = \"preserve\"\n"
            ),
        )?;
        // What a guest of this name said before.
        let _ = fs::remove_file(console_log(name));
        xl_create(&path, &[])?;
        let domid =
            domid(name)?.with_context(|| format!("xl create succeeded, but no {name} runs"))?;
        let name = name.to_owned();
        Ok(Self { domid, name })
    }

    /// Waits until the guest has said `words` on its console.
    pub fn wait_for_words(&self, words: &str, limit: Duration) -> Result<()> {
        wait_for_words(&self.name, words, limit)
    }

    /// Waits until the server in the guest has published.
    pub fn wait_for_server(&self) -> Result<()> {
        let until = program::latest(Duration::from_secs(150));
        let path = self.path("vchan");
        while store::keys(&path)?.is_none() {
            ensure!(
                domid(&self.name)?.is_some(),
                "the guest {} has crashed",
                self.name
            );
            ensure!(
                Instant::now() < until,
                "the server in {} has not published",
                self.name
            );
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }

    /// Waits until the server in the guest has published, or until the guest has said `words`; true
    /// means the first. The domain may end then.
    pub fn wait_for_server_or(&self, words: &str, limit: Duration) -> Result<bool> {
        let until = program::latest(limit);
        let path = self.path("vchan");
        loop {
            if store::keys(&path)?.is_some() {
                return Ok(true);
            }
            let said = console_of(&self.name);
            if said.contains(words) {
                return Ok(false);
            }
            ensure!(
                Instant::now() < until,
                "{} has neither published nor said {words:?}:\n{said}",
                self.name
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until the guest's name is another domain's, which it is from then on.
    pub fn wait_for_successor(&mut self, limit: Duration) -> Result<()> {
        let until = program::latest(limit);
        loop {
            match domid(&self.name)? {
                Some(domid) if domid != self.domid => {
                    self.domid = domid;
                    return Ok(());
                }
                _ => ensure!(Instant::now() < until, "{} has not come back", self.name),
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// How much processor time the domain has used, by Xen's own count.
    pub fn processor_time(&self) -> Result<Duration> {
        let limit = Duration::from_secs(20);
        let ended = program::run(&["processor-time", &self.domid], &[], limit)?;
        let nanoseconds = ended.successful("processor-time")?.stdout_text();
        Ok(Duration::from_nanos(nanoseconds.trim().parse()?))
    }

    /// How many MiB of memory it has, by what `xl list` says.
    pub fn memory(&self) -> Result<u32> {
        let [_, _, memory, ..] = listing(&self.name)?;
        Ok(memory.parse()?)
    }

    /// Waits until the domain has ended as crashed. It must have been told to stay then.
    pub fn wait_for_crash(&self, limit: Duration) -> Result<()> {
        let until = program::latest(limit);
        loop {
            let [.., state, _] = listing(&self.name)?;
            if state.contains('c') {
                return Ok(());
            }
            ensure!(
                Instant::now() < until,
                "{} has not crashed, its state is {state}:\n{}",
                self.name,
                console_of(&self.name)
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until the domain is no more.
    pub fn wait_for_end(&self, limit: Duration) -> Result<()> {
        let until = program::latest(limit);
        while domid(&self.name)?.is_some() {
            ensure!(Instant::now() < until, "{} has not ended", self.name);
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// `/local/domain/<domid>/data/<leaf>`.
    pub fn path(&self, leaf: &str) -> String {
        format!("/local/domain/{}/data/{leaf}", self.domid)
    }

    /// `xl` with this guest's name.
    pub fn xl(&self, words: &[&str], after: &[&str]) -> Result<()> {
        let mut all = vec!["xl"];
        all.extend(words);
        all.push(&self.name);
        all.extend(after);
        program::run(&all, &[], Duration::from_secs(120))?.successful(&all.join(" "))?;
        Ok(())
    }

    /// All that it has said.
    pub fn console(&self) -> Result<String> {
        let path = format!("{CONSOLE_LOGS}/guest-{}.log", self.name);
        let bytes = fs::read(&path).context(path)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// `xl destroy`: the domain is gone at once, nobody in it closes anything.
    pub fn destroy(self) -> Result<()> {
        self.xl(&["destroy"], &[])
    }
}

fn name_of(kind: Kind, image: Image) -> String {
    match (image, kind) {
        (Image::EchoGuest, Kind::Pv) => "echo-linux".to_owned(),
        (Image::EchoGuest, Kind::Pvh) => "echo-linux-pvh".to_owned(),
        (Image::Unikernel, Kind::Pv) => "echo".to_owned(),
        (Image::Unikernel, Kind::Pvh) => "echo-pvh".to_owned(),
        (Image::C, kind) => format!("c-{kind}"),
        (Image::Ordered, kind) => format!("ordered-{kind}"),
        (Image::Load, kind) => format!("load-{kind}"),
    }
}

fn domid(name: &str) -> Result<Option<String>> {
    let ended = program::run(&["xl", "domid", name], &[], Duration::from_secs(20))?;
    Ok(ended
        .status
        .success()
        .then(|| ended.stdout_text().trim().to_owned()))
}

/// What `xl list` says of a domain: name, number, memory, processors, state, time.
fn listing(name: &str) -> Result<[String; 6]> {
    let ended = program::run(&["xl", "list", name], &[], Duration::from_secs(20))?;
    let list = ended.successful("xl list")?.stdout_text();
    let words = list.lines().last().unwrap_or_default().split_whitespace();
    let words: Vec<String> = words.map(str::to_owned).collect();
    words
        .try_into()
        .map_err(|words| anyhow::anyhow!("xl list says {words:?} of {name}"))
}

fn create(name: &str, kind: Kind, image: Image) -> Result<()> {
    let config = match image {
        Image::EchoGuest | Image::Unikernel => format!("xl/{name}.xl"),
        Image::C | Image::Ordered | Image::Load => {
            let ramdisk = match image {
                Image::C => "c-guest",
                Image::Ordered => "ordered-guest",
                _ => "load-guest",
            };
            let path = format!("/tmp/{name}.xl");
            let virtualisation = kind.to_string();
            fs::write(
                &path,
                format!(
                    "name = \"{name}\"\ntype = \"{virtualisation}\"\nmemory = 256\nvcpus = 1\n\
                     kernel = \"target/xen/vmlinuz\"\nramdisk = \"target/xen/{ramdisk}.cpio.gz\"\n\
                     extra = \"console=hvc0 quiet panic=-1\"\n"
                ),
            )?;
            path
        }
    };
    let more: &[&str] = match image {
        // Less than its own file says: saving takes its time.
        Image::EchoGuest => &["memory=128"],
        // Not where dom0's first processor is: who measures is there. The counter is read as on
        // hardware where all processors count alike: otherwise each look at the clock traps to Xen.
        Image::Load => &["cpus=\"1\"", "tsc_mode=\"native\""],
        _ => &[],
    };
    xl_create(&config, more)
}

fn xl_create(config: &str, more: &[&str]) -> Result<()> {
    std::env::set_current_dir(HOME)?;
    let mut words = vec!["xl", "create", config];
    words.extend(more);
    program::run(&words, &[], Duration::from_secs(120))?.successful("xl create")?;
    Ok(())
}

fn console_log(name: &str) -> String {
    format!("{CONSOLE_LOGS}/guest-{name}.log")
}

fn console_of(name: &str) -> String {
    let bytes = fs::read(console_log(name)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\r', "")
}

fn wait_for_words(name: &str, words: &str, limit: Duration) -> Result<()> {
    let until = program::latest(limit);
    loop {
        let said = console_of(name);
        if said.contains(words) {
            return Ok(());
        }
        ensure!(
            Instant::now() < until,
            "the console of {name} does not show {words:?}:\n{said}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// How many lines `xl list` has. A domain that is not gone entirely has one, too.
pub fn listed() -> Result<usize> {
    let ended = program::run(&["xl", "list"], &[], Duration::from_secs(20))?;
    Ok(ended.successful("xl list")?.stdout_text().lines().count())
}

/// What Xen says in its log when it is asked by this key, behind the last `title`.
fn dump(key: &str, title: &str) -> Result<String> {
    let limit = Duration::from_secs(20);
    program::run(&["xl", "debug-keys", key], &[], limit)?.successful("xl debug-keys")?;
    let log = program::run(&["xl", "dmesg"], &[], limit)?.successful("xl dmesg")?;
    let log = log.stdout_text();
    let (_, dump) = log
        .rsplit_once(title)
        .with_context(|| format!("Xen's log has no {title:?} after xl debug-keys {key}"))?;
    Ok(dump.to_owned())
}

/// How many grants are mapped anywhere, by what Xen says in its log.
pub fn mapped_grants() -> Result<usize> {
    let dump = dump("g", "gnttab_usage_print_all [ key")?;
    ensure!(
        dump.contains("gnttab_usage_print_all ] done"),
        "Xen's list of grants is cut off"
    );
    Ok(dump.lines().filter(|line| line.contains("[0x")).count())
}

/// How many event channels there are in all domains, by what Xen says in its log.
pub fn event_channels() -> Result<usize> {
    let dump = dump("e", "dumping event-channel info")?;
    let count = dump.lines().filter(|line| line.contains("]: s=")).count();
    // dom0 has some of its own.
    ensure!(count > 0, "Xen's list of event channels is empty:\n{dump}");
    Ok(count)
}

/// How many MiB of the machine's memory Xen has given out or uses itself.
pub fn memory_in_use() -> Result<u64> {
    let ended = program::run(&["xl", "info"], &[], Duration::from_secs(20))?;
    let info = ended.successful("xl info")?.stdout_text();
    let number = |key: &str| -> Result<u64> {
        let line = info.lines().find(|line| line.starts_with(key));
        let value = line.and_then(|line| line.split_once(':'));
        let (_, value) = value.with_context(|| format!("xl info has no {key}"))?;
        Ok(value.trim().parse()?)
    };
    Ok(number("total_memory")? - number("free_memory")?)
}

/// Starts Xen's own log afresh.
pub fn clear_xen_log() {
    let _ = program::run(&["xl", "dmesg", "-c"], &[], Duration::from_secs(20));
}

/// What Xen says when it has crashed a guest since its log was cleared: the processor's state, by
/// which the hypervisor judged that the guest cannot go on.
pub fn crashed_by_xen() -> Option<String> {
    let log = program::run(&["xl", "dmesg"], &[], Duration::from_secs(20))
        .ok()?
        .stdout_text();
    let lines: Vec<&str> = log.lines().map(str::trim).collect();
    let dump = lines
        .iter()
        .position(|line| line.contains("*** Dumping Dom"))?;
    let from = dump.saturating_sub(3);
    Some(
        lines
            .iter()
            .skip(from)
            .take(9)
            .map(|line| format!("{line}\n"))
            .collect(),
    )
}

/// The last lines of the console of the guest that spoke last, for a scenario that failed.
pub fn last_words() -> String {
    let entries = fs::read_dir(CONSOLE_LOGS).into_iter().flatten().flatten();
    let logs = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("guest-"));
    let Some(newest) =
        logs.max_by_key(|entry| entry.metadata().and_then(|data| data.modified()).ok())
    else {
        return String::new();
    };
    let name = newest
        .file_name()
        .to_string_lossy()
        .trim_end_matches(".log")
        .to_owned();
    let bytes = fs::read(newest.path()).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let last = lines.iter().skip(lines.len().saturating_sub(12));
    last.map(|line| format!("{name}: {line}\n")).collect()
}

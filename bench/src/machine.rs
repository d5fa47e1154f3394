//! What the machine was.

use std::fs;

/// The machine in a few words, for beside the figures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many of them this process may use.
    pub cpus: usize,
    /// Whether it is a virtual machine.
    pub is_virtual: bool,
    /// The kernel's version, without what its builder added.
    pub kernel: String,
    /// How many tasks waited for a processor in the last minute: the measuring alone is 1 to 2.
    pub load: String,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn this() -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| line.split_once(':'));
            value.map_or("", |(_, value)| value.trim())
        };
        let first_word = |path: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.split_whitespace().next().unwrap_or("?").to_owned()
        };
        let release = first_word("/proc/sys/kernel/osrelease");
        Machine {
            processor: field("model name").to_owned(),
            cpus: crate::cpu::usable().map_or(1, |cpus| cpus.len()),
            is_virtual: field("flags").split(' ').any(|flag| flag == "hypervisor"),
            kernel: release.split('-').next().unwrap_or_default().to_owned(),
            load: first_word("/proc/loadavg"),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Machine {
            processor,
            cpus,
            is_virtual,
            kernel,
            load,
        } = self;
        let kind = if *is_virtual { "virtual" } else { "physical" };
        write!(
            f,
            "{processor}, {cpus} CPUs of a {kind} machine, Linux {kernel}, load {load}"
        )
    }
}

//! Debian's Xen, fetched with `apt-get download` and unpacked under the build
//! directory. Nothing is installed: the packages' own scripts would make the
//! machine boot Xen the next time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::process;

/// Raised whenever what is unpacked changes, so that older trees are rebuilt.
const RECIPE: &str = "2";

/// The packages unpacked into one tree.
pub struct Packages {
    /// The tree: `boot`, `usr`, `lib`, …
    pub root: PathBuf,
    /// Kernel release, the name of the directory under `lib/modules`.
    pub kernel_release: String,
}

impl Packages {
    /// Unpacks what is missing; a complete tree is used as it is, without asking apt.
    pub fn prepare() -> Result<Self> {
        let directory = process::xen_directory();
        let root = directory.join("root");
        let stamp = directory.join("packages.stamp");
        let complete =
            fs::read_to_string(&stamp).is_ok_and(|text| text.lines().next() == Some(RECIPE));
        if !complete {
            unpack_all(&directory, &root)
                .context("Debian's Xen packages cannot be fetched and unpacked")?;
            fs::write(&stamp, format!("{RECIPE}\n"))?;
        }
        let release = only_entry(&root.join("boot"), |name| name.strip_prefix("vmlinuz-"))?;
        Ok(Self {
            root,
            kernel_release: release,
        })
    }

    /// The kernel of dom0 and of the guests.
    pub fn kernel(&self) -> PathBuf {
        self.root
            .join("boot")
            .join(format!("vmlinuz-{}", self.kernel_release))
    }

    /// The compressed hypervisor.
    pub fn hypervisor(&self) -> Result<PathBuf> {
        let boot = self.root.join("boot");
        let name = only_entry(&boot, |name| {
            (name.starts_with("xen-") && name.ends_with(".gz")).then_some(name)
        })?;
        Ok(boot.join(name))
    }

    /// `usr/lib/xen-<version>`, relative to the tree.
    pub fn private_directory(&self) -> Result<String> {
        let name = only_entry(&self.root.join("usr/lib"), |name| {
            name.starts_with("xen-").then_some(name)
        })?;
        Ok(format!("usr/lib/{name}"))
    }

    /// A kernel module as (file name, plain content); `None` if it is built into the kernel.
    pub fn module(&self, name: &str, path: &str) -> Result<Option<(String, Vec<u8>)>> {
        let modules = self.root.join("lib/modules").join(&self.kernel_release);
        let plain = modules.join("kernel").join(path).join(format!("{name}.ko"));
        let file_name = format!("{name}.ko");
        if plain.is_file() {
            return Ok(Some((file_name, fs::read(plain)?)));
        }
        let packed = plain.with_extension("ko.xz");
        if packed.is_file() {
            let output = Command::new("xz")
                .arg("-dc")
                .arg(&packed)
                .output()
                .context("xz")?;
            if !output.status.success() {
                bail!("xz cannot unpack {}", packed.display());
            }
            return Ok(Some((file_name, output.stdout)));
        }
        let builtin = fs::read_to_string(modules.join("modules.builtin")).unwrap_or_default();
        if builtin
            .lines()
            .any(|line| line.ends_with(&format!("/{name}.ko")))
        {
            return Ok(None);
        }
        bail!(
            "the kernel {} has no module {name}; remove target/xen and try again, and if that \
             does not help, this Debian release's kernel is built without it",
            self.kernel_release
        )
    }
}

/// The one entry of `directory` that `pick` recognises.
fn only_entry(directory: &Path, pick: impl Fn(&str) -> Option<&str>) -> Result<String> {
    let entries = fs::read_dir(directory).with_context(|| {
        format!(
            "cannot list {}; remove target/xen and try again",
            directory.display()
        )
    })?;
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        found.extend(name.to_str().and_then(&pick).map(str::to_owned));
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        _ => bail!(
            "{} holds {} of the files looked for instead of one; remove target/xen and try again",
            directory.display(),
            found.len()
        ),
    }
}

fn unpack_all(directory: &Path, root: &Path) -> Result<()> {
    for program in ["apt-get", "apt-cache", "dpkg-deb", "tar"] {
        process::need(
            program,
            "real Xen is taken from Debian's packages, so it needs a Debian",
        )?;
    }
    let names = resolve()?;
    let debs = directory.join("debs");
    download(&names, &debs)?;

    // Unpacked beside and renamed at the end, so that an interrupted run leaves nothing half done.
    let fresh = directory.join("root.new");
    for old in [root, fresh.as_path()] {
        if old.exists() {
            fs::remove_dir_all(old)?;
        }
    }
    fs::create_dir_all(&fresh)?;
    for name in &names {
        unpack(
            &deb_of(&debs, name)?,
            &fresh,
            name.starts_with("linux-image"),
        )?;
    }
    fs::rename(&fresh, root)?;
    Ok(())
}

/// Asks apt which packages make up Xen on this release.
fn resolve() -> Result<BTreeSet<String>> {
    let graph = dependencies(&["xen-system-amd64", "linux-image-amd64"])?;
    let find = |of: &str, prefix: &str| -> Result<String> {
        let found = graph
            .get(of)
            .and_then(|on| on.iter().find(|name| name.starts_with(prefix)));
        found.cloned().with_context(|| {
            format!(
                "apt knows no {prefix}* in {of}: run `apt-get update` as root and try again (on \
                 anything but Debian on x86-64 these packages do not exist)"
            )
        })
    };
    let hypervisor = find("xen-system-amd64", "xen-hypervisor-4")?;
    let utils = find("xen-system-amd64", "xen-utils-4")?;
    let kernel = find("linux-image-amd64", "linux-image-")?;

    // Libraries are followed through the graph; python, udev and the like are not needed.
    let libraries = dependencies(&["--recurse", &utils, "xenstore-utils", "libxen-dev"])?;
    let mut names = BTreeSet::new();
    let mut queue: VecDeque<&str> = [utils.as_str(), "xenstore-utils", "libxen-dev"].into();
    while let Some(name) = queue.pop_front() {
        if names.insert(name.to_owned()) {
            let wanted = libraries.get(name).into_iter().flatten();
            queue.extend(wanted.map(String::as_str).filter(|name| is_library(name)));
        }
    }
    names.extend([hypervisor, kernel, "busybox-static".to_owned()]);
    Ok(names)
}

fn is_library(name: &str) -> bool {
    name == "zlib1g" || (name.starts_with("lib") && !name.starts_with("libpython"))
}

/// `apt-cache depends`, as package → packages it depends on.
fn dependencies(arguments: &[&str]) -> Result<BTreeMap<String, Vec<String>>> {
    let mut command = Command::new("apt-cache");
    command.args([
        "depends",
        "--no-recommends",
        "--no-suggests",
        "--no-conflicts",
        "--no-breaks",
    ]);
    command
        .args(["--no-replaces", "--no-enhances"])
        .args(arguments)
        .env("LC_ALL", "C");
    let text = process::output(&mut command).context(
        "apt does not know the Xen packages: run `apt-get update` as root and try again",
    )?;
    let mut graph: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some((_, on)) = line.split_once("Depends: ") {
            graph
                .entry(current.clone())
                .or_default()
                .push(on.trim().to_owned());
        } else if !line.starts_with([' ', '|']) {
            current = line.trim().to_owned();
        }
    }
    Ok(graph)
}

fn apt_get_download() -> Command {
    let mut command = Command::new("apt-get");
    // As root apt would otherwise switch to a user that cannot write to the build directory.
    command
        .args(["-o", "APT::Sandbox::User=root", "-q", "download"])
        .env("LC_ALL", "C");
    command
}

/// Fetches what `debs` does not hold yet.
fn download(names: &BTreeSet<String>, debs: &Path) -> Result<()> {
    fs::create_dir_all(debs)?;
    let missing: Vec<&String> = names
        .iter()
        .filter(|name| deb_of(debs, name).is_err())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let uris = process::output(apt_get_download().arg("--print-uris").args(&missing))?;
    let total: u64 = uris
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok())
        .sum();
    let bar = ProgressBar::new(total).with_style(ProgressStyle::with_template(
        "  download {bar:30} {bytes}/{total_bytes} {bytes_per_sec}",
    )?);
    let before = size_of_files(debs);
    // Into a directory of its own: an interrupted download leaves nothing that looks complete.
    let partial = debs.join("partial");
    fs::create_dir_all(&partial)?;
    let mut child = apt_get_download()
        .args(&missing)
        .current_dir(&partial)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start apt-get")?;
    while child.try_wait()?.is_none() {
        bar.set_position(size_of_files(&partial).saturating_sub(before));
        std::thread::sleep(Duration::from_millis(100));
    }
    bar.finish_and_clear();
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "apt-get download failed ({}): {}\nrun `apt-get update` as root, check the network, \
             and try again",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    for entry in fs::read_dir(&partial)? {
        let entry = entry?;
        fs::rename(entry.path(), debs.join(entry.file_name()))?;
    }
    println!(
        "  downloaded {} packages, {} MB",
        missing.len(),
        total / 1_000_000
    );
    Ok(())
}

fn size_of_files(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some(entry.metadata().ok()?.len()))
        .sum()
}

/// The downloaded file of a package: `<name>_<version>_<architecture>.deb`.
fn deb_of(debs: &Path, name: &str) -> Result<PathBuf> {
    let prefix = format!("{name}_");
    let entries = fs::read_dir(debs)?.flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = entries
        .filter(|path| {
            let file = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            file.starts_with(&prefix) && file.ends_with(".deb")
        })
        .collect();
    found.sort();
    found
        .pop()
        .with_context(|| format!("{name} has not been downloaded"))
}

/// Unpacks one package; of the kernel only the image and Xen's modules.
fn unpack(deb: &Path, into: &Path, kernel: bool) -> Result<()> {
    if !kernel {
        process::output(Command::new("dpkg-deb").arg("-x").args([deb, into]))?;
        return Ok(());
    }
    let mut files = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start dpkg-deb")?;
    let tar = files.stdout.take().context("dpkg-deb gives no output")?;
    let status = Command::new("tar")
        .arg("-x")
        .arg("-C")
        .arg(into)
        .args([
            "--wildcards",
            "./boot/vmlinuz-*",
            "./lib/modules/*/kernel/drivers/xen/*",
        ])
        .arg("./lib/modules/*/modules.builtin")
        .stdin(tar)
        .status()
        .context("cannot start tar")?;
    if !status.success() || !files.wait()?.success() {
        bail!(
            "{} cannot be unpacked; remove target/xen and try again",
            deb.display()
        );
    }
    Ok(())
}

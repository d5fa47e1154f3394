//! The initramfs images of dom0 and of the guests.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use flate2::read::GzDecoder;

use super::binaries;
use super::packages::Packages;
use crate::cpio::Archive;
use crate::{process, unikernel};

/// Kernel modules in the order in which they can be loaded, with their place in the kernel tree.
const GUEST_MODULES: &[(&str, &str)] = &[
    ("xen-privcmd", "drivers/xen"),
    ("xen-evtchn", "drivers/xen"),
    ("xen-gntdev", "drivers/xen"),
    ("xen-gntalloc", "drivers/xen"),
];
const DOM0_MODULES: &[(&str, &str)] = &[
    ("xen-privcmd", "drivers/xen"),
    ("xenfs", "drivers/xen/xenfs"),
    ("xen-evtchn", "drivers/xen"),
    ("xen-gntdev", "drivers/xen"),
    ("xen-gntalloc", "drivers/xen"),
];

/// What of Xen's private directory dom0 uses.
const XEN_PROGRAMS: &[&str] = &[
    "xl",
    "xenstored",
    "xenconsoled",
    "xenconsole",
    "xen-init-dom0",
    "libxl-save-helper",
    "vchan-socket-proxy",
];

/// What boots: hypervisor, dom0 kernel and dom0's initramfs.
pub struct Images {
    /// The uncompressed hypervisor (a multiboot kernel).
    pub hypervisor: PathBuf,
    /// The dom0 kernel.
    pub kernel: PathBuf,
    /// dom0's initramfs.
    pub dom0: PathBuf,
}

/// Makes `echo-guest.cpio.gz` and a copy of the kernel beside it, with the program from `programs`.
fn guest_image(packages: &Packages, programs: &Path) -> Result<PathBuf> {
    let mut archive = Archive::default();
    archive.copy("init", &programs.join("echo-guest"))?;
    mount_points(&mut archive);
    modules(&mut archive, packages, GUEST_MODULES)?;
    let image = process::xen_directory().join("echo-guest.cpio.gz");
    fs::write(&image, archive.finish_gzip()?)?;
    fs::copy(packages.kernel(), process::xen_directory().join("vmlinuz"))?;
    Ok(image)
}

/// `cargo xtask guest-image`.
pub fn announce_guest_image() -> Result<ExitCode> {
    let packages = Packages::prepare()?;
    let image = guest_image(&packages, &binaries::build_static(&["echo-guest"])?)?;
    println!("guest image  {}", image.display());
    println!(
        "kernel       {}  (Debian's {}; runs as PV and as PVH)",
        process::xen_directory().join("vmlinuz").display(),
        packages.kernel_release
    );
    println!("\nOn a Xen host, in this directory and as root:\n");
    println!("    xl create xl/echo-linux.xl  # PV;  PVH: xl create xl/echo-linux-pvh.xl");
    println!("    node-cli $(xl domid echo-linux)\n");
    println!(
        "On another machine, copy both files there and change the two paths in echo-linux.xl."
    );
    Ok(ExitCode::SUCCESS)
}

/// Makes everything that boots. dom0 holds the guests' images too.
pub fn all(packages: &Packages) -> Result<Images> {
    let directory = process::xen_directory();
    let peer = binaries::build_c_peer(packages)?;
    let load = binaries::build_c_load(packages)?;
    let processor_time = binaries::build_processor_time(packages)?;
    // Together: what one of them needs of a shared dependency, cargo gives to all, and building
    // them one by one would compile everything once for each.
    let programs =
        binaries::build_static(&["echo-guest", "vchan-cli", "vchan-tests", "xen-scenarios"])?;
    let echo_guest = guest_image(packages, &programs)?;

    let hypervisor = directory.join("xen");
    let mut plain = Vec::new();
    let packed = fs::File::open(packages.hypervisor()?)?;
    GzDecoder::new(packed)
        .read_to_end(&mut plain)
        .context("unpacking the hypervisor")?;
    fs::write(&hypervisor, plain)?;

    let dom0 = directory.join("dom0.cpio");
    let mut archive = dom0_base(packages)?;
    for program in ["node-cli", "rust-load", "vchan-soak", "xen-scenarios"] {
        archive.copy(&format!("opt/rig/{program}"), &programs.join(program))?;
    }
    archive.copy("opt/rig/vchan-peer", &peer)?;
    archive.copy("opt/rig/vchan-load", &load)?;
    archive.copy("opt/rig/processor-time", &processor_time)?;
    let kernel = packages.kernel();
    unikernel::build()?;
    unikernel::build_with_gnu_ld()?;
    // The paths that xl/*.xl name, seen from /root. Whoever has written a unikernel puts it there, too.
    for entry in fs::read_dir(&directory)? {
        let image = entry?.path();
        let extension = image.extension().unwrap_or_default();
        if extension == "xen" || extension == "xl" {
            let name = image.file_name().unwrap_or_default().to_string_lossy();
            archive.copy(&format!("root/target/xen/{name}"), &image)?;
        }
    }
    archive.copy("root/target/xen/vmlinuz", &kernel)?;
    archive.copy("root/target/xen/echo-guest.cpio.gz", &echo_guest)?;
    archive.file(
        "root/target/xen/c-guest.cpio.gz",
        0o644,
        &c_guest(packages, &peer)?,
    );
    archive.file(
        "root/target/xen/ordered-guest.cpio.gz",
        0o644,
        &ordered_guest(packages, &programs)?,
    );
    archive.file(
        "root/target/xen/load-guest.cpio.gz",
        0o644,
        &load_guest(packages, &programs, &load)?,
    );
    for name in [
        "echo.xl",
        "echo-pvh.xl",
        "echo-linux.xl",
        "echo-linux-pvh.xl",
    ] {
        archive.copy(
            &format!("root/xl/{name}"),
            &process::workspace().join("xl").join(name),
        )?;
    }
    // Uncompressed: the emulated processor would spend longer unpacking it than QEMU loading it.
    fs::write(&dom0, archive.finish())?;
    Ok(Images {
        hypervisor,
        kernel,
        dom0,
    })
}

/// A guest with a shell script as its /init.
fn scripted_guest(packages: &Packages, script: &str) -> Result<Archive> {
    let mut archive = Archive::default();
    archive.copy("init", &rig_file(script))?;
    archive.copy("bin/busybox", &packages.root.join("bin/busybox"))?;
    mount_points(&mut archive);
    modules(&mut archive, packages, GUEST_MODULES)?;
    Ok(archive)
}

/// A guest that does what dom0 tells it.
fn ordered_guest(packages: &Packages, programs: &Path) -> Result<Vec<u8>> {
    let mut archive = scripted_guest(packages, "ordered-guest-init.sh")?;
    archive.copy("bin/ordered-guest", &programs.join("ordered-guest"))?;
    archive.finish_gzip()
}

/// A guest that is measured, with both libraries.
fn load_guest(packages: &Packages, programs: &Path, c: &Path) -> Result<Vec<u8>> {
    let mut archive = scripted_guest(packages, "load-guest-init.sh")?;
    archive.copy("bin/rust-load", &programs.join("rust-load"))?;
    archive.copy("bin/vchan-load", c)?;
    archive.finish_gzip()
}

/// A guest with Debian's C library serving: the echo, and vchan-socket-proxy.
fn c_guest(packages: &Packages, peer: &Path) -> Result<Vec<u8>> {
    let mut archive = scripted_guest(packages, "c-guest-init.sh")?;
    archive.copy("bin/vchan-peer", peer)?;
    archive.copy(
        "bin/vchan-socket-proxy",
        &private_program(packages, "vchan-socket-proxy")?,
    )?;
    let proxy_needs = [
        "libxenvchan.",
        "libxenstore.",
        "libxenctrl.",
        "libxengnttab.",
        "libxenevtchn.",
    ];
    let these_need = [
        "libxencall.",
        "libxentool",
        "libxenforeignmemory.",
        "libxendevicemodel.",
        "libc.",
    ];
    libraries(&mut archive, packages, |name| {
        proxy_needs
            .iter()
            .chain(&these_need)
            .any(|prefix| name.starts_with(prefix))
    })?;
    archive.finish_gzip()
}

/// dom0 without the project's own programs.
fn dom0_base(packages: &Packages) -> Result<Archive> {
    let mut archive = Archive::default();
    archive.copy("init", &rig_file("dom0-init.sh"))?;
    archive.copy("opt/rig/demo.sh", &rig_file("demo.sh"))?;
    archive.copy("opt/rig/soak.sh", &rig_file("soak.sh"))?;
    archive.copy("etc/motd", &rig_file("motd"))?;
    archive.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n",
    );
    archive.file("etc/group", 0o644, b"root:x:0:\nuser:x:1000:\n");
    archive.file("etc/xen/xl.conf", 0o644, b"# all defaults\n");
    archive.copy("bin/busybox", &packages.root.join("bin/busybox"))?;
    mount_points(&mut archive);
    modules(&mut archive, packages, DOM0_MODULES)?;

    let private = packages.private_directory()?;
    for program in XEN_PROGRAMS {
        archive.copy(
            &format!("{private}/bin/{program}"),
            &private_program(packages, program)?,
        )?;
    }
    // Whoever starts these by the path that the init script uses need not know the version.
    archive.symlink(
        "usr/lib/xen",
        private.rsplit('/').next().unwrap_or(&private),
    );
    for entry in fs::read_dir(packages.root.join("usr/bin"))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        // Some are links to a script that picks the running Xen's version; those are left out.
        if name.starts_with("xenstore") && path.is_file() {
            archive.copy(&format!("usr/bin/{name}"), &path)?;
        }
    }
    libraries(&mut archive, packages, |_| true)?;
    Ok(archive)
}

fn mount_points(archive: &mut Archive) {
    for directory in ["proc", "sys", "dev", "run", "tmp", "var/lib", "root"] {
        archive.directory(directory);
    }
}

fn modules(archive: &mut Archive, packages: &Packages, list: &[(&str, &str)]) -> Result<()> {
    let mut order = String::new();
    for (name, path) in list {
        if let Some((file, content)) = packages.module(name, path)? {
            archive.file(&format!("lib/modules-xen/{file}"), 0o644, &content);
            order.push_str(&file);
            order.push('\n');
        }
    }
    archive.file("lib/modules-xen/order", 0o644, order.as_bytes());
    Ok(())
}

/// Copies the shared libraries whose file name `wanted` accepts, under every name they have.
fn libraries(
    archive: &mut Archive,
    packages: &Packages,
    wanted: impl Fn(&str) -> bool,
) -> Result<()> {
    for directory in ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"] {
        let Ok(entries) = fs::read_dir(packages.root.join(directory)) else {
            continue;
        };
        for entry in entries {
            let path = entry?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            // Names as programs ask for them: libx.so.1, not the linker's libx.so.
            let shared = name.contains(".so.") && wanted(name);
            if !shared {
                continue;
            }
            match fs::read_link(&path) {
                Ok(target) => {
                    let target = target.to_string_lossy();
                    let file = target.rsplit('/').next().unwrap_or(&target);
                    archive.symlink(&format!("lib/x86_64-linux-gnu/{name}"), file);
                }
                Err(_) => {
                    archive.copy(&format!("lib/x86_64-linux-gnu/{name}"), &path)?;
                }
            }
        }
    }
    let loader = "ld-linux-x86-64.so.2";
    let candidates = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
    let from = candidates
        .iter()
        .map(|dir| packages.root.join(dir).join(loader))
        .find(|path| path.is_file());
    archive.copy(
        &format!("lib64/{loader}"),
        &from.context("libc6 holds no program loader")?,
    )?;
    Ok(())
}

fn private_program(packages: &Packages, name: &str) -> Result<PathBuf> {
    Ok(packages
        .root
        .join(packages.private_directory()?)
        .join("bin")
        .join(name))
}

fn rig_file(name: &str) -> PathBuf {
    process::workspace().join("tests/xen").join(name)
}

//! The forbidden things, each in the shortest form that the kernel would carry out.

#![expect(unsafe_code, reason = "an attacker is not held to safe wrappers")]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use rustix::process::Pid;

/// Makes one attempt.
pub(crate) fn run(words: &[&str]) -> Result<(), Errno> {
    match words {
        ["read", path] => rustix::fs::open(*path, OFlags::RDONLY, Mode::empty()).map(drop),
        ["write", path] => rustix::fs::open(*path, OFlags::WRONLY, Mode::empty()).map(drop),
        ["create", path] => {
            rustix::fs::open(*path, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY, Mode::RWXU).map(drop)
        }
        ["truncate", path] => {
            let path = std::ffi::CString::new(*path).map_err(|_| Errno::INVAL)?;
            raw(libc::SYS_truncate, [path.as_ptr() as usize, 0, 0, 0, 0])
        }
        ["link", from, to] => rustix::fs::link(*from, *to),
        ["chmod", path] => rustix::fs::chmod(*path, Mode::RWXU),
        ["list", path] => {
            rustix::fs::open(*path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).map(drop)
        }
        ["device-ioctl"] => {
            let device = rustix::fs::open("/dev/urandom", OFlags::RDONLY, Mode::empty())?;
            let mut entropy = 0_i32;
            // RNDGETENTCNT, which anybody may ask.
            raw(
                libc::SYS_ioctl,
                [descriptor(&device), 0x8004_5200, std::ptr::from_mut(&mut entropy) as usize, 0, 0],
            )
        }
        ["tiocsti"] => raw(libc::SYS_ioctl, [0, 0x5412, c"x".as_ptr() as usize, 0, 0]),
        ["tcp-connect", port] => tcp(port, |socket, address| rustix::net::connect(socket, address)),
        ["tcp-bind", port] => tcp(port, |socket, address| rustix::net::bind(socket, address)),
        ["socket", domain, kind, protocol] => {
            raw(libc::SYS_socket, [number(domain)?, number(kind)?, number(protocol)?, 0, 0])
        }
        ["fast-open", port] => {
            let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
            let port = u16::try_from(number(port)?).map_err(|_| Errno::INVAL)?;
            let [high, low] = port.to_be_bytes();
            let address: [u8; 16] = [2, 0, high, low, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
            raw6(
                libc::SYS_sendto,
                [descriptor(&socket), c"x".as_ptr() as usize, 1, 0x2000_0000, address.as_ptr() as usize, 16],
            )
        }
        ["abstract-connect", name] => {
            let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
            rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)
        }
        ["kill", pid] => rustix::process::test_kill_process(process(pid)?),
        ["prlimit", pid] => {
            let former = rustix::process::getrlimit(rustix::process::Resource::Nofile);
            rustix::process::prlimit(Some(process(pid)?), rustix::process::Resource::Nofile, former).map(drop)
        }
        ["setpriority", pid] => raw(libc::SYS_setpriority, [0, number(pid)?, 19, 0, 0]),
        ["ioprio", pid] => raw(libc::SYS_ioprio_set, [1, number(pid)?, 0x6000, 0, 0]),
        ["affinity", pid] => {
            let mask = usize::MAX;
            raw(libc::SYS_sched_setaffinity, [number(pid)?, 8, std::ptr::from_ref(&mask) as usize, 0, 0])
        }
        ["read-memory", pid] => {
            // No bytes are asked for; permission is judged all the same.
            let mut byte = 0_u8;
            let local = [std::ptr::from_mut(&mut byte) as usize, 1];
            let remote = [0x1000_usize, 1];
            let answer = raw6(
                libc::SYS_process_vm_readv,
                [number(pid)?, local.as_ptr() as usize, 1, remote.as_ptr() as usize, 1, 0],
            );
            // The address is not mapped, which only one who was let in gets to know.
            if answer == Err(Errno::FAULT) { Ok(()) } else { answer }
        }
        ["unshare-user"] => raw(libc::SYS_unshare, [0x1000_0000, 0, 0, 0, 0]),
        ["clone-user"] => match unsafe_clone(0x1000_0000 | 17) {
            Ok(child) => {
                rustix::process::waitpid(Pid::from_raw(child), rustix::process::WaitOptions::empty())
                    .map(drop)
            }
            Err(errno) => Err(errno),
        },
        // Wrong on purpose: a kernel that looks at the arguments answers EINVAL.
        ["clone3"] => raw(libc::SYS_clone3, [0, 0, 0, 0, 0]),
        ["io-uring"] => {
            let parameters = [0_u8; 120];
            raw(libc::SYS_io_uring_setup, [1, parameters.as_ptr() as usize, 0, 0, 0])
        }
        ["shmget"] => made(libc::SYS_shmget, [0, 4096, 0o1600], libc::SYS_shmctl),
        ["msgget"] => made(libc::SYS_msgget, [0, 0o1600, 0], libc::SYS_msgctl),
        ["semget"] => made(libc::SYS_semget, [0, 1, 0o1600], libc::SYS_semctl),
        ["keyring"] => raw(libc::SYS_keyctl, [0, usize::MAX - 3, 0, 0, 0]),
        ["inotify", path] => {
            let watch = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::empty())?;
            rustix::fs::inotify::add_watch(&watch, *path, rustix::fs::inotify::WatchFlags::CREATE).map(drop)
        }
        ["personality"] => raw(libc::SYS_personality, [0x0004_0000, 0, 0, 0, 0]),
        ["userfaultfd"] => raw(libc::SYS_userfaultfd, [1, 0, 0, 0, 0]),
        ["ptracer"] => raw(libc::SYS_prctl, [0x5961_6d61, usize::MAX, 0, 0, 0]),
        ["name-to-handle"] => {
            let handle = [128_u32; 40];
            let mut mount = 0_i32;
            let path = c"/".as_ptr() as usize;
            raw(
                libc::SYS_name_to_handle_at,
                [usize::MAX - 99, path, handle.as_ptr() as usize, std::ptr::from_mut(&mut mount) as usize, 0],
            )
        }
        // getpid by its number in the x32 ABI.
        ["x32"] => raw(0x4000_0000 + 39, [0; 5]),
        ["exec", path] => {
            let path = std::ffi::CString::new(*path).map_err(|_| Errno::INVAL)?;
            let none = [std::ptr::null::<libc::c_char>()];
            raw(
                libc::SYS_execve,
                [path.as_ptr() as usize, none.as_ptr() as usize, none.as_ptr() as usize, 0, 0],
            )
        }
        ["memfd"] => rustix::fs::memfd_create(c"x", rustix::fs::MemfdFlags::empty()).map(drop),
        ["thread"] => std::thread::spawn(|| ()).join().map_err(|_| Errno::IO),
        _ => Err(Errno::NOEXEC),
    }
}

fn tcp(port: &str, then: impl FnOnce(&OwnedFd, &SocketAddrV4) -> Result<(), Errno>) -> Result<(), Errno> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    let port = u16::try_from(number(port)?).map_err(|_| Errno::INVAL)?;
    then(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

fn number(text: &str) -> Result<usize, Errno> {
    text.parse().map_err(|_| Errno::INVAL)
}

fn process(text: &str) -> Result<Pid, Errno> {
    Pid::from_raw(text.parse().map_err(|_| Errno::INVAL)?).ok_or(Errno::INVAL)
}

fn descriptor(fd: &OwnedFd) -> usize {
    usize::try_from(fd.as_raw_fd()).unwrap_or(usize::MAX)
}

/// Makes a System V object, which outlives its maker, and removes it.
fn made(get: i64, [a, b, c]: [usize; 3], control: i64) -> Result<(), Errno> {
    let made = answer(get, [a, b, c, 0, 0, 0])?;
    let id = usize::try_from(made).map_err(|_| Errno::IO)?;
    let remove = usize::try_from(libc::IPC_RMID).map_err(|_| Errno::IO)?;
    // A set of semaphores has a number before the order, the others an address behind it.
    let orders = if control == libc::SYS_semctl { [id, 0, remove] } else { [id, remove, 0] };
    raw(control, [orders[0], orders[1], orders[2], 0, 0])
}

fn raw(call: i64, [a, b, c, d, e]: [usize; 5]) -> Result<(), Errno> {
    raw6(call, [a, b, c, d, e, 0])
}

fn raw6(call: i64, arguments: [usize; 6]) -> Result<(), Errno> {
    answer(call, arguments).map(drop)
}

fn answer(call: i64, [a, b, c, d, e, f]: [usize; 6]) -> Result<i64, Errno> {
    // SAFETY: every pointer that a caller above passes is null, a constant, or a live local of the size that the call
    // expects; that the kernel refuses is what is being tested.
    let answer = unsafe { libc::syscall(call, a, b, c, d, e, f) };
    if answer == -1 { Err(last()) } else { Ok(answer) }
}

/// A fork with namespace flags, whose child ends at once.
fn unsafe_clone(flags: usize) -> Result<i32, Errno> {
    // SAFETY: without a stack and without shared memory this is a fork of a process of one thread.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
        -1 => Err(last()),
        // SAFETY: the child has nothing to clean up.
        0 => unsafe { libc::_exit(0) },
        child => i32::try_from(child).map_err(|_| Errno::IO),
    }
}

fn last() -> Errno {
    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

//! What a moment counts as: by the function it was seen in and by its callers.

/// One function of a stack.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    name: &'a str,
    kernel: bool,
}

impl<'a> Frame<'a> {
    /// `ADDRESS NAME (FILE)`.
    pub fn parse(line: &'a str) -> Option<Self> {
        let (_, rest) = line.trim().split_once(' ')?;
        let (name, file) = rest.rsplit_once(" (")?;
        Some(Self {
            name: name.trim(),
            kernel: file.starts_with("[kernel") || file.starts_with("[guest.kernel"),
        })
    }

    /// Without the types it is made for.
    pub fn short_name(&self) -> String {
        let mut depth = 0u32;
        let kept = self.name.chars().filter(|&c| {
            depth += u32::from(c == '<');
            let keep = depth == 0;
            depth -= u32::from(c == '>' && depth > 0);
            keep
        });
        let kept: String = kept.collect();
        let kept = kept.trim_matches(':');
        // A method of a trait is all brackets but for its own name: say whose it is.
        let owner = self.name.strip_prefix('<').and_then(|rest| rest.split([' ', '<', '>']).next());
        match owner {
            Some(owner) => format!("{owner}::{kept}").replace("::::", "::"),
            None => kept.replace("::::", "::"),
        }
    }
}

/// What time is spent on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    /// The kernel copies payload.
    Copy,
    /// The rest of sending, from the call to the device.
    Send,
    /// Segments and acknowledgements come in: over loopback in the sender's own call.
    Input,
    /// The rest of receiving.
    Receive,
    /// Asking whether something came, and waiting.
    Poll,
    /// Files and block devices.
    Files,
    /// Anything else of the kernel.
    Kernel,
    /// What carries bytes.
    Net,
    /// iSCSI.
    Iscsi,
    /// The SCSI mid-level.
    Scsi,
    /// Pools and devices.
    Memory,
    /// Turns, timers, messages, and what puts the parts together.
    Reactor,
    /// The C library, Rust's, and what has no name.
    Library,
}

/// Parts of names of functions that copy payload.
const COPIES: [&str; 8] = [
    "_copy_from_iter",
    "_copy_to_iter",
    "copy_user",
    "copy_page_from_iter",
    "copy_page_to_iter",
    "rep_movs",
    "copyin",
    "copyout",
];
const INPUT: [&str; 4] = ["net_rx_action", "process_backlog", "__netif_receive_skb", "tcp_v4_rcv"];
const SEND: [&str; 4] = ["sys_sendmsg", "sys_sendto", "sys_writev", "sock_write_iter"];
const RECEIVE: [&str; 4] = ["sys_recvmsg", "sys_recvfrom", "sys_readv", "sock_read_iter"];
const POLL: [&str; 4] = ["epoll_wait", "epoll_pwait", "sys_ppoll", "sys_poll"];
const FILES: [&str; 3] = ["io_uring", "blkdev", "ext4"];
/// Crates of ours; the first that fits.
const CRATES: [(&str, Place); 9] = [
    ("spindle_net", Place::Net),
    ("spindle_iscsi", Place::Iscsi),
    ("spindle_scsi", Place::Scsi),
    ("spindle_mem", Place::Memory),
    ("spindle_bdev", Place::Memory),
    ("spindle_reactor", Place::Reactor),
    ("spindle_ffi", Place::Net),
    ("spindle_conf", Place::Reactor),
    ("spindle::", Place::Reactor),
];

impl Place {
    /// As they stand in a table.
    pub const ALL: [Self; 13] = [
        Self::Copy,
        Self::Send,
        Self::Input,
        Self::Receive,
        Self::Poll,
        Self::Files,
        Self::Kernel,
        Self::Net,
        Self::Iscsi,
        Self::Scsi,
        Self::Memory,
        Self::Reactor,
        Self::Library,
    ];

    /// Heading.
    pub fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Send => "TCP send",
            Self::Input => "TCP input",
            Self::Receive => "TCP receive",
            Self::Poll => "poll, wait",
            Self::Files => "files",
            Self::Kernel => "other kernel",
            Self::Net => "our net",
            Self::Iscsi => "iSCSI",
            Self::Scsi => "SCSI",
            Self::Memory => "memory, devices",
            Self::Reactor => "reactor, shard",
            Self::Library => "libraries",
        }
    }

    /// By the whole stack, innermost first.
    pub fn of(stack: &[Frame<'_>]) -> Self {
        let Some(leaf) = stack.first() else { return Self::Library };
        if !leaf.kernel {
            // A trait of one crate, implemented in another: the one that is named first is the one that does it.
            let named =
                CRATES.iter().filter_map(|&(name, place)| Some((leaf.name.find(name)?, name.len(), place)));
            return named
                .min_by_key(|&(at, len, _)| (at, usize::MAX - len))
                .map_or(Self::Library, |found| found.2);
        }
        let any =
            |names: &[&str]| stack.iter().any(|f| f.kernel && names.iter().any(|name| f.name.contains(name)));
        match () {
            () if COPIES.iter().any(|name| leaf.name.contains(name)) => Self::Copy,
            () if any(&INPUT) => Self::Input,
            () if any(&SEND) => Self::Send,
            () if any(&RECEIVE) => Self::Receive,
            () if any(&POLL) => Self::Poll,
            () if any(&FILES) => Self::Files,
            () => Self::Kernel,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(lines: &[&str]) -> Place {
        let stack: Vec<_> = lines.iter().filter_map(|line| Frame::parse(line)).collect();
        assert_eq!(stack.len(), lines.len());
        Place::of(&stack)
    }

    #[test]
    fn the_kernel_is_told_apart_by_who_called_it() {
        let entry = "ffffffff82000000 do_syscall_64 ([kernel.kallsyms])";
        let send = "ffffffff81000000 __sys_sendmsg ([kernel.kallsyms])";
        assert_eq!(
            place(&["ffffffff81000001 kmem_cache_alloc ([kernel.kallsyms])", send, entry]),
            Place::Send
        );
        assert_eq!(place(&["ffffffff81000002 copy_user_generic ([kernel.kallsyms])", send]), Place::Copy);
        let input = "ffffffff81000003 tcp_v4_rcv ([kernel.kallsyms])";
        assert_eq!(place(&["ffffffff81000004 tcp_ack ([kernel.kallsyms])", input, send]), Place::Input);
        assert_eq!(
            place(&["ffffffff81000005 ep_poll ([kernel.kallsyms])", "1 do_epoll_wait ([kernel.kallsyms])"]),
            Place::Poll
        );
        assert_eq!(place(&[entry]), Place::Kernel);
    }

    #[test]
    fn user_space_is_told_apart_by_the_crate_named_first() {
        assert_eq!(place(&["1 <spindle_iscsi::T as spindle_scsi_port::Transport>::poll (/x)"]), Place::Iscsi);
        assert_eq!(
            place(&["1 <spindle_scsi::engine::Engine as spindle_scsi_port::Mid>::command (/x)"]),
            Place::Scsi
        );
        assert_eq!(place(&["1 spindle::shard::Core<N>::turn (/x)"]), Place::Reactor);
        assert_eq!(place(&["1 __memmove_avx (/lib/libc.so.6)"]), Place::Library);
        assert_eq!(place(&["1 [unknown] ([unknown])"]), Place::Library);
    }

    #[test]
    fn names_lose_the_types_they_are_made_for() {
        let name = |line| Frame::parse(line).unwrap().short_name();
        assert_eq!(name("1 spindle::shard::Core<N>::turn (/x)"), "spindle::shard::Core::turn");
        assert_eq!(name("1 <a::B<N> as c::D>::poll (/x)"), "a::B::poll");
        assert_eq!(name("1 a::b::<impl a::C>::send_some (/x)"), "a::b::send_some");
        assert_eq!(name("1 _copy_from_iter ([kernel.kallsyms])"), "_copy_from_iter");
    }
}

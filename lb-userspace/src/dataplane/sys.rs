//! The few calls of `bpf(2)` that aya does not offer: what a pinned link is
//! attached to, detaching it at once, pinning by descriptor, whether an object
//! still exists, and reading and writing many rows of a map at once.

use aya::Pod;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// `BPF_MAP_CREATE`.
const MAP_CREATE: i32 = 0;
/// `BPF_MAP_GET_NEXT_KEY`.
const MAP_GET_NEXT_KEY: i32 = 4;
/// `BPF_OBJ_PIN`.
const OBJ_PIN: i32 = 6;
/// `BPF_OBJ_GET`.
const OBJ_GET: i32 = 7;
/// `BPF_PROG_GET_NEXT_ID`.
const PROG_GET_NEXT_ID: i32 = 11;
/// `BPF_MAP_GET_NEXT_ID`.
const MAP_GET_NEXT_ID: i32 = 12;
/// `BPF_OBJ_GET_INFO_BY_FD`.
const OBJ_GET_INFO_BY_FD: i32 = 15;
/// `BPF_MAP_LOOKUP_BATCH`.
const MAP_LOOKUP_BATCH: i32 = 24;
/// `BPF_MAP_UPDATE_BATCH`.
const MAP_UPDATE_BATCH: i32 = 26;
/// `BPF_LINK_UPDATE`.
const LINK_UPDATE: i32 = 29;
/// `BPF_LINK_DETACH`.
const LINK_DETACH: i32 = 34;

/// `BPF_MAP_TYPE_LRU_HASH`.
const MAP_TYPE_LRU_HASH: u32 = 9;

/// `BPF_LINK_TYPE_CGROUP`.
const LINK_TYPE_CGROUP: u32 = 3;
/// `BPF_LINK_TYPE_XDP`.
const LINK_TYPE_XDP: u32 = 6;
/// `BPF_LINK_TYPE_TCX`.
const LINK_TYPE_TCX: u32 = 11;

/// `union bpf_attr`, longer than any command needs: the kernel accepts zeroes
/// beyond what it knows.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Attributes([u8; 128]);

impl Attributes {
    const fn new() -> Self {
        Self([0; 128])
    }

    /// Sets a field.
    fn with<const N: usize>(mut self, offset: usize, bytes: [u8; N]) -> Self {
        self.0[offset..offset + N].copy_from_slice(&bytes);
        self
    }
}

/// `struct bpf_link_info` with the union as tcx and XDP fill it; a cgroup's id
/// stands in the place of the interface.
#[derive(Clone, Copy, Default)]
#[repr(C, align(8))]
struct RawLinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    pad: u32,
    ifindex: u32,
    rest: [u32; 27],
}

/// Size of [`RawLinkInfo`].
const RAW_LINK_INFO_LEN: u32 = 128;
const _: () = assert!(size_of::<RawLinkInfo>() == 128);

/// What a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkKind {
    /// tcx.
    Tcx,
    /// XDP.
    Xdp,
    /// A cgroup's sockets.
    Cgroup,
    /// Something that this program never makes.
    Other,
}

/// What a link does at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkInfo {
    pub kind: LinkKind,
    /// Id of its program.
    pub program: u32,
    /// The interface, or the low half of the id of the cgroup, that it is
    /// attached to; 0 if that is gone.
    pub index: u32,
}

/// Opens what is pinned.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = Attributes::new().with(0, path.as_ptr().expose_provenance().to_ne_bytes());
    let fd = bpf(OBJ_GET, &mut attributes)?;
    // SAFETY: the kernel made this descriptor for us just now; nobody else
    // owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins a map or a link where nothing is.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = Attributes::new()
        .with(0, path.as_ptr().expose_provenance().to_ne_bytes())
        .with(8, object.as_raw_fd().to_ne_bytes());
    bpf(OBJ_PIN, &mut attributes).map(drop)
}

/// The id of a map or a link: what both kinds of information begin with, behind
/// the type.
pub(super) fn object_id(object: BorrowedFd<'_>) -> io::Result<u32> {
    let mut head = [0_u32; 2];
    let mut attributes = Attributes::new()
        .with(0, object.as_raw_fd().to_ne_bytes())
        .with(4, 8_u32.to_ne_bytes())
        .with(8, (&raw mut head).expose_provenance().to_ne_bytes());
    bpf(OBJ_GET_INFO_BY_FD, &mut attributes)?;
    Ok(head[1])
}

/// What a link does at present.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut raw = RawLinkInfo::default();
    let mut attributes = Attributes::new()
        .with(0, link.as_raw_fd().to_ne_bytes())
        .with(4, RAW_LINK_INFO_LEN.to_ne_bytes())
        .with(8, (&raw mut raw).expose_provenance().to_ne_bytes());
    bpf(OBJ_GET_INFO_BY_FD, &mut attributes)?;
    let kind = match raw.kind {
        LINK_TYPE_TCX => LinkKind::Tcx,
        LINK_TYPE_XDP => LinkKind::Xdp,
        LINK_TYPE_CGROUP => LinkKind::Cgroup,
        _ => LinkKind::Other,
    };
    let index = if kind == LinkKind::Other { 0 } else { raw.ifindex };
    Ok(LinkInfo { kind, program: raw.program, index })
}

/// Gives a link another program: from one run to the next, none is missing.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = Attributes::new()
        .with(0, link.as_raw_fd().to_ne_bytes())
        .with(4, program.as_raw_fd().to_ne_bytes());
    bpf(LINK_UPDATE, &mut attributes).map(drop)
}

/// Detaches a link now; its pin then is an empty shell. Removing the pin alone
/// would detach it some time later.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = Attributes::new().with(0, link.as_raw_fd().to_ne_bytes());
    bpf(LINK_DETACH, &mut attributes).map(drop)
}

/// Makes a hash map that forgets what was used least recently, and pins it.
pub(super) fn create_lru(
    name: &str,
    [key, value, entries]: [u32; 3],
    path: &Path,
) -> io::Result<()> {
    /// `BPF_OBJ_NAME_LEN`, with the zero at the end.
    const NAME: usize = 16;
    let mut short = [0; NAME];
    let kept = name.len().min(NAME - 1);
    short[..kept].copy_from_slice(&name.as_bytes()[..kept]);
    let mut attributes = Attributes::new()
        .with(0, MAP_TYPE_LRU_HASH.to_ne_bytes())
        .with(4, key.to_ne_bytes())
        .with(8, value.to_ne_bytes())
        .with(12, entries.to_ne_bytes())
        .with(28, short);
    let fd = bpf(MAP_CREATE, &mut attributes)?;
    // SAFETY: the kernel made this descriptor for us just now; nobody else
    // owns it.
    let map = unsafe { OwnedFd::from_raw_fd(fd) };
    pin(map.as_fd(), path)
}

/// The key behind `key` in a map, or the first one, put into `next`; false if
/// there is none. Both slices must have the size of the map's keys.
pub(super) fn next_key<K: Pod>(map: BorrowedFd<'_>, key: Option<&[K]>, next: &mut [K]) -> bool {
    let key = key.map_or(0, |key| key.as_ptr().expose_provenance());
    let mut attributes = Attributes::new()
        .with(0, map.as_raw_fd().to_ne_bytes())
        .with(8, key.to_ne_bytes())
        .with(16, next.as_mut_ptr().expose_provenance().to_ne_bytes());
    bpf(MAP_GET_NEXT_KEY, &mut attributes).is_ok()
}

/// Where a walk through a map in batches stands: the number of a bucket, or of an
/// array's row, so it only ever goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Batch {
    /// Further rows begin here; from the start if there is no number.
    At(Option<u32>),
    /// There are no more.
    End,
}

/// Reads as many rows of a hash map as fit into both slices, from a place on;
/// how many, and the place behind them. `K` and `V` must have the sizes of the
/// map's keys and values.
pub(super) fn lookup_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    from: Option<u32>,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<(usize, Batch)> {
    let room = keys.len().min(values.len());
    let places = [keys.as_mut_ptr().expose_provenance(), values.as_mut_ptr().expose_provenance()];
    lookup_some(map, from, places, room)
}

/// Rows of a map of which only the sizes are known.
pub(super) struct Rows {
    keys: Vec<u8>,
    values: Vec<u8>,
    room: usize,
}

impl Rows {
    /// Room for so many, with keys and values of these sizes.
    pub(super) fn new(room: usize, key: usize, value: usize) -> Self {
        Self { keys: vec![0; room * key], values: vec![0; room * value], room }
    }

    /// Reads as many as fit, from a place on; how many, and the place behind them.
    pub(super) fn read(
        &mut self,
        map: BorrowedFd<'_>,
        from: Option<u32>,
    ) -> io::Result<(usize, Batch)> {
        let places = [
            self.keys.as_mut_ptr().expose_provenance(),
            self.values.as_mut_ptr().expose_provenance(),
        ];
        lookup_some(map, from, places, self.room)
    }

    /// Writes the first `count` to a map with rows of the same sizes.
    pub(super) fn write(&self, map: BorrowedFd<'_>, count: usize) -> io::Result<()> {
        if count == 0 {
            return Ok(());
        }
        let places =
            [self.keys.as_ptr().expose_provenance(), self.values.as_ptr().expose_provenance()];
        let mut attributes = batch(map, places, count.min(self.room));
        bpf(MAP_UPDATE_BATCH, &mut attributes).map(drop)
    }
}

/// Where `count` is among the attributes of calls in batches.
const BATCH_COUNT: usize = 32;

/// What all calls in batches are told: the map, where keys and values are, and how
/// many.
fn batch(map: BorrowedFd<'_>, [keys, values]: [usize; 2], count: usize) -> Attributes {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    Attributes::new()
        .with(16, keys.to_ne_bytes())
        .with(24, values.to_ne_bytes())
        .with(BATCH_COUNT, count.to_ne_bytes())
        .with(BATCH_COUNT + 4, map.as_raw_fd().to_ne_bytes())
}

fn lookup_some(
    map: BorrowedFd<'_>,
    from: Option<u32>,
    places: [usize; 2],
    room: usize,
) -> io::Result<(usize, Batch)> {
    let from = from.as_ref().map_or(0, |from| std::ptr::from_ref(from).expose_provenance());
    let mut behind = 0_u32;
    let mut attributes = batch(map, places, room)
        .with(0, from.to_ne_bytes())
        .with(8, (&raw mut behind).expose_provenance().to_ne_bytes());
    let result = bpf(MAP_LOOKUP_BATCH, &mut attributes);
    let mut count = [0; 4];
    count.copy_from_slice(&attributes.0[BATCH_COUNT..BATCH_COUNT + 4]);
    let count = (u32::from_ne_bytes(count) as usize).min(room);
    match result {
        Ok(_) => Ok((count, Batch::At(Some(behind)))),
        // The last rows come along with this error.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok((count, Batch::End)),
        Err(error) => Err(error),
    }
}

/// Whether a program with this id exists.
pub(super) fn program_exists(id: u32) -> bool {
    next_id(PROG_GET_NEXT_ID, id)
}

/// Whether a map with this id exists.
pub(super) fn map_exists(id: u32) -> bool {
    next_id(MAP_GET_NEXT_ID, id)
}

/// Asking for the id after the one before takes no reference, which would
/// itself keep the object alive.
fn next_id(command: i32, id: u32) -> bool {
    let mut attributes = Attributes::new().with(0, id.saturating_sub(1).to_ne_bytes());
    bpf(command, &mut attributes).is_ok() && attributes.0[4..8] == id.to_ne_bytes()
}

fn bpf(command: i32, attributes: &mut Attributes) -> io::Result<i32> {
    // SAFETY: the attributes live through the call and have the size that is
    // passed; pointers in them are set by the callers above to memory that
    // lives through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<Attributes>(),
        )
    };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

//! Disks of other hypervisors: whether a file is what it was declared to be, and what has to be known
//! of it before qemu-img may see it.
//!
//! qemu-img opens the other files that a disk names (extents, parents) before it says anything about
//! them. So of each format only what keeps all of its disk in one file is taken, and that is judged
//! here, from the fields that qemu-img goes by.
//!
//! | format | taken | where a parent would be named |
//! |---|---|---|
//! | vmdk | streamOptimized, with its descriptor inside | in the descriptor |
//! | vhdx | fixed, dynamic | in the metadata: a flag, and a locator |
//! | vdi | dynamic, static | in the header: its type, and two UUIDs |

use std::io::{self, Read, Seek, SeekFrom};

use ostler_protocol::rpc::image::Format;
use ostler_protocol::rpc::values::Bytes;
use uuid::{Uuid, uuid};

use super::Unfit;

/// Of a vmdk, qemu-img looks for a parent in so many bytes from the second sector on.
const VMDK_LOOKED_AT: u64 = 20 * 512;

/// Descriptors have one or two kilobytes.
const VMDK_DESCRIPTOR: u64 = 64 << 10;

/// The tables of a vhdx have this size, and so many entries at most.
const VHDX_TABLE: u64 = 64 << 10;
const VHDX_ENTRIES: usize = 2047;
/// Where the table of regions is that qemu-img reads.
const VHDX_REGIONS: u64 = 192 << 10;
const VHDX_METADATA: Uuid = uuid!("8b7ca206-4790-4b9a-b8fe-575f050f886e");
const VHDX_PARAMETERS: Uuid = uuid!("caa16737-fa36-4d43-b3b6-33f0aa44e76b");
const VHDX_DISK_SIZE: Uuid = uuid!("2fa54224-cd1b-4876-b211-5dbed83bf4b8");
const VHDX_PARENT: Uuid = uuid!("a8d35f2d-b30b-454d-abf7-d3d84834ab0c");

/// Why a file was not judged to the end, or not well.
#[derive(Debug)]
pub(super) enum Judged {
    /// It cannot be read.
    Unread(io::Error),
    /// It must not be used.
    Unfit(Unfit),
}

impl From<Unfit> for Judged {
    fn from(unfit: Unfit) -> Self {
        Self::Unfit(unfit)
    }
}

impl From<io::Error> for Judged {
    fn from(error: io::Error) -> Self {
        match error.kind() == io::ErrorKind::UnexpectedEof {
            true => Self::Unfit(Unfit::CutShort),
            false => Self::Unread(error),
        }
    }
}

/// The size of the disk in a file of a declared format, if that is one for qemu-img to read.
pub(super) fn judge(
    format: Format,
    file: &mut (impl Read + Seek),
    cap: Bytes,
) -> Result<Bytes, Judged> {
    let size = match format {
        Format::Vmdk => vmdk(file)?,
        Format::Vhdx => vhdx(file)?,
        Format::Vdi => vdi(file)?,
        Format::Qcow2 | Format::Raw | Format::Iso | Format::Kernel | Format::Ramdisk => {
            return Err(Unfit::NotLike(format.as_str()).into());
        }
    };
    let size = Bytes(size.checked_next_multiple_of(512).unwrap_or(u64::MAX));
    match size {
        Bytes(0) => Err(Unfit::NoDisk.into()),
        size if size > cap => Err(Unfit::VirtualSize { size, cap }.into()),
        size => Ok(size),
    }
}

fn vmdk(file: &mut (impl Read + Seek)) -> Result<u64, Judged> {
    let head = exactly(file, 0, 512)?;
    if !head.starts_with(b"KDMV") {
        let is_descriptor = head.starts_with(b"# Disk Descriptor");
        return Err(if is_descriptor { Unfit::OtherFiles } else { Unfit::NotLike("vmdk") }.into());
    }
    let (flags, sectors) = (u32_at(&head, 8), u64_at(&head, 12));
    let (descriptor_at, descriptor_size) = (u64_at(&head, 28), u64_at(&head, 36));
    let deflates = flags & 1 << 16 != 0 && head[77..79] == [1, 0];
    // Without a size in the header, qemu-img goes by the descriptor and opens what that names.
    if !deflates || sectors == 0 || descriptor_at != 1 {
        return Err(Unfit::VmdkType.into());
    }
    let length = descriptor_size.saturating_mul(512);
    if length == 0 || length > VMDK_DESCRIPTOR {
        return Err(Unfit::Header("the length of its descriptor").into());
    }
    let region = at_most(file, 512, length.max(VMDK_LOOKED_AT))?;
    let hint = b"parentFileNameHint";
    if region.windows(hint.len()).any(|window| window.eq_ignore_ascii_case(hint)) {
        return Err(Unfit::Parent.into());
    }
    let text = region.get(..length as usize).unwrap_or(&region);
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    descriptor(&String::from_utf8_lossy(text))?;
    Ok(sectors.saturating_mul(512))
}

/// Judge the descriptor of a vmdk: its one extent is the file itself, by a name without a folder.
fn descriptor(text: &str) -> Result<(), Unfit> {
    let mut kind = None;
    let mut extents = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some((access, extent)) = line.split_once(' ')
            && ["RW", "RDONLY", "NOACCESS"].contains(&access)
        {
            extents.push(extent);
        } else if let Some((key, value)) = line.split_once('=') {
            let value = value.trim().trim_matches('"');
            match key.trim() {
                "createType" => kind = Some(value),
                "parentCID" if !value.eq_ignore_ascii_case("ffffffff") => {
                    return Err(Unfit::Parent);
                }
                _ => {}
            }
        }
    }
    if kind != Some("streamOptimized") {
        return Err(Unfit::VmdkType);
    }
    let is_itself = |extent: &str| {
        let (_, rest) = extent.split_once(' ')?;
        let name = rest.strip_prefix("SPARSE \"")?.strip_suffix('"')?;
        (!name.contains(['/', '\\', '"'])).then_some(())
    };
    match extents[..] {
        [extent] if is_itself(extent).is_some() => Ok(()),
        _ => Err(Unfit::OtherFiles),
    }
}

fn vhdx(file: &mut (impl Read + Seek)) -> Result<u64, Judged> {
    if exactly(file, 0, 8)? != b"vhdxfile" {
        return Err(Unfit::NotLike("vhdx").into());
    }
    let regions = exactly(file, VHDX_REGIONS, VHDX_TABLE)?;
    if !regions.starts_with(b"regi") {
        return Err(Unfit::Header("its table of regions").into());
    }
    let count = u32_at(&regions, 8) as usize;
    let metadata = only(entries(&regions, 16, count)?, VHDX_METADATA)?;
    let metadata_at = u64_at(metadata, 16);
    let table = exactly(file, metadata_at, VHDX_TABLE)?;
    if !table.starts_with(b"metadata") {
        return Err(Unfit::Header("its table of metadata").into());
    }
    let entries = entries(&table, 32, u16_at(&table, 10).into())?;
    if entries.iter().any(|entry| id(entry) == VHDX_PARENT) {
        return Err(Unfit::Parent.into());
    }
    let mut item = |id| -> Result<Vec<u8>, Judged> {
        let offset = u32_at(only(entries.clone(), id)?, 16);
        exactly(file, metadata_at.saturating_add(offset.into()), 8)
    };
    if u32_at(&item(VHDX_PARAMETERS)?, 4) & 2 != 0 {
        return Err(Unfit::Parent.into());
    }
    Ok(u64_at(&item(VHDX_DISK_SIZE)?, 0))
}

/// The entries of a table of a vhdx: 32 bytes each, of which the first 16 are an id.
fn entries(table: &[u8], at: usize, count: usize) -> Result<Vec<&[u8]>, Unfit> {
    match table.get(at..at + count.min(VHDX_ENTRIES + 1) * 32) {
        Some(entries) if count <= VHDX_ENTRIES => Ok(entries.chunks_exact(32).collect()),
        Some(_) | None => Err(Unfit::Header("the number of entries in a table")),
    }
}

/// The entry with this id. Of two, who knows which one another program takes?
fn only(entries: Vec<&[u8]>, wanted: Uuid) -> Result<&[u8], Unfit> {
    let mut found = entries.into_iter().filter(|entry| id(entry) == wanted);
    match (found.next(), found.next()) {
        (Some(entry), None) => Ok(entry),
        (None, _) | (Some(_), Some(_)) => Err(Unfit::Header("an entry that must be there once")),
    }
}

fn id(entry: &[u8]) -> Uuid {
    Uuid::from_bytes_le(array(entry, 0))
}

fn vdi(file: &mut (impl Read + Seek)) -> Result<u64, Judged> {
    let head = exactly(file, 0, 512)?;
    if head[64..68] != [0x7f, 0x10, 0xda, 0xbe] {
        return Err(Unfit::NotLike("vdi").into());
    }
    if u32_at(&head, 68) != 0x1_0001 {
        return Err(Unfit::Header("its version").into());
    }
    // Of the types, 1 grows and 2 is static; 3 and 4 are differences to another disk. The UUIDs are
    // those of a snapshot's disk and of the parent.
    let has_parent = head[0x1a8..0x1c8].iter().any(|byte| *byte != 0);
    match u32_at(&head, 0x4c) {
        1 | 2 if !has_parent => Ok(u64_at(&head, 0x170)),
        1..=4 => Err(Unfit::Parent.into()),
        _ => Err(Unfit::Header("its type").into()),
    }
}

/// So many bytes from there; fewer at the end of the file.
fn at_most(file: &mut (impl Read + Seek), at: u64, most: u64) -> Result<Vec<u8>, Judged> {
    let mut bytes = Vec::new();
    // No file reaches behind what a seek can.
    if file.seek(SeekFrom::Start(at)).is_err() && at > i64::MAX as u64 {
        return Err(Unfit::CutShort.into());
    }
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// So many bytes from there.
fn exactly(file: &mut (impl Read + Seek), at: u64, length: u64) -> Result<Vec<u8>, Judged> {
    let bytes = at_most(file, at, length)?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(Unfit::CutShort.into()) }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    // All of these are within what was read whole.
    if let Some(bytes) = bytes.get(at..at + N) {
        array.copy_from_slice(bytes);
    }
    array
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    const CAP: Bytes = Bytes::gib(100);

    fn judged(format: Format, bytes: &[u8]) -> Result<Bytes, Unfit> {
        judge(format, &mut Cursor::new(bytes), CAP).map_err(|judged| match judged {
            Judged::Unfit(unfit) => unfit,
            Judged::Unread(error) => panic!("{error}"),
        })
    }

    const DESCRIPTOR: &str = "# Disk DescriptorFile\nversion=1\nCID=6a5b1c2d\nparentCID=ffffffff\n\
         createType=\"streamOptimized\"\n\n# Extent description\nRW 2048 SPARSE \"disk 1.vmdk\"\n\n\
         ddb.adapterType = \"ide\"\n";

    fn vmdk_with(text: &str, change: impl FnOnce(&mut Vec<u8>)) -> Result<Bytes, Unfit> {
        let mut bytes = vec![0; 64 << 10];
        bytes[..4].copy_from_slice(b"KDMV");
        bytes[4..8].copy_from_slice(&3u32.to_le_bytes());
        bytes[8..12].copy_from_slice(&0x3_0001u32.to_le_bytes());
        bytes[12..20].copy_from_slice(&2048u64.to_le_bytes());
        bytes[28..36].copy_from_slice(&1u64.to_le_bytes());
        bytes[36..44].copy_from_slice(&20u64.to_le_bytes());
        bytes[77] = 1;
        bytes[512..512 + text.len()].copy_from_slice(text.as_bytes());
        change(&mut bytes);
        judged(Format::Vmdk, &bytes)
    }

    #[test]
    fn a_stream_optimized_vmdk_passes() {
        assert_eq!(vmdk_with(DESCRIPTOR, |_| {}), Ok(Bytes::mib(1)));
        assert_eq!(vmdk_with(&DESCRIPTOR.replace('\n', "\r\n"), |_| {}), Ok(Bytes::mib(1)));
    }

    #[test]
    fn a_vmdk_of_another_type_or_without_a_size_of_its_own_is_refused() {
        let sparse = DESCRIPTOR.replace("streamOptimized", "monolithicSparse");
        assert_eq!(vmdk_with(&sparse, |_| {}), Err(Unfit::VmdkType));
        assert_eq!(vmdk_with("", |_| {}), Err(Unfit::VmdkType));
        assert_eq!(vmdk_with(DESCRIPTOR, |b| b[10] = 0), Err(Unfit::VmdkType));
        assert_eq!(vmdk_with(DESCRIPTOR, |b| b[77] = 0), Err(Unfit::VmdkType));
        // The ways to a descriptor that qemu-img would follow to other files.
        assert_eq!(vmdk_with(DESCRIPTOR, |b| b[12..20].fill(0)), Err(Unfit::VmdkType));
        assert_eq!(vmdk_with(DESCRIPTOR, |b| b[28] = 40), Err(Unfit::VmdkType));
        assert_eq!(
            judged(Format::Vmdk, &[DESCRIPTOR, &" ".repeat(512)].concat().into_bytes()),
            Err(Unfit::OtherFiles)
        );
        assert_eq!(vmdk_with(DESCRIPTOR, |b| b[0] = b'C'), Err(Unfit::NotLike("vmdk")));
        assert!(matches!(vmdk_with(DESCRIPTOR, |b| b[36..44].fill(0xff)), Err(Unfit::Header(_))));
        assert_eq!(vmdk_with(DESCRIPTOR, |b| b.truncate(100)), Err(Unfit::CutShort));
        assert!(matches!(
            vmdk_with(DESCRIPTOR, |b| b[12..20].fill(0xff)),
            Err(Unfit::VirtualSize { .. })
        ));
    }

    #[test]
    fn a_vmdk_that_names_another_file_is_refused() {
        let own = "RW 2048 SPARSE \"disk 1.vmdk\"";
        for extents in [
            "RW 2048 FLAT \"/etc/passwd\" 0",
            "RW 2048 SPARSE \"/etc/passwd\"",
            "RW 2048 SPARSE \"../disk.vmdk\"",
            "RW 2048 SPARSE disk.vmdk",
            "RW 2048 SPARSE \"a\" \"b\"",
            "RW 2048 VMFSSPARSE \"disk.vmdk\"",
            "RW 2048 SPARSE \"one.vmdk\"\nRDONLY 2048 SPARSE \"two.vmdk\"",
            "",
        ] {
            let refused = vmdk_with(&DESCRIPTOR.replace(own, extents), |_| {});
            assert_eq!(refused, Err(Unfit::OtherFiles), "{extents}");
        }
        let parent = DESCRIPTOR.replace("parentCID=ffffffff", "parentCID=01234567");
        assert_eq!(vmdk_with(&parent, |_| {}), Err(Unfit::Parent));
        let hint = format!("{DESCRIPTOR}parentFileNameHint=\"/etc/passwd\"\n");
        assert_eq!(vmdk_with(&hint, |_| {}), Err(Unfit::Parent));
        // Behind the descriptor's own length, where qemu-img looks all the same.
        let behind = |b: &mut Vec<u8>| {
            b[36] = 1;
            b[10_000..10_018].copy_from_slice(b"parentFileNameHint");
        };
        assert_eq!(vmdk_with(DESCRIPTOR, behind), Err(Unfit::Parent));
    }

    const ITEMS: usize = 300 << 10;

    fn vhdx_with(change: impl FnOnce(&mut Vec<u8>)) -> Result<Bytes, Unfit> {
        let mut bytes = vec![0; 400 << 10];
        let mut put = |at: usize, piece: &[u8]| {
            bytes[at..at + piece.len()].copy_from_slice(piece);
        };
        put(0, b"vhdxfile");
        put(192 << 10, b"regi");
        put((192 << 10) + 8, &[1]);
        put((192 << 10) + 16, &VHDX_METADATA.to_bytes_le());
        put((192 << 10) + 32, &(ITEMS as u64).to_le_bytes());
        put(ITEMS, b"metadata");
        put(ITEMS + 10, &[2]);
        put(ITEMS + 32, &VHDX_PARAMETERS.to_bytes_le());
        put(ITEMS + 48, &(65536u32 + 8).to_le_bytes());
        put(ITEMS + 64, &VHDX_DISK_SIZE.to_bytes_le());
        put(ITEMS + 80, &65536u32.to_le_bytes());
        put(ITEMS + 65536, &(1u64 << 20).to_le_bytes());
        change(&mut bytes);
        judged(Format::Vhdx, &bytes)
    }

    #[test]
    fn a_vhdx_passes_unless_it_has_a_parent_or_its_tables_are_not_clear() {
        assert_eq!(vhdx_with(|_| {}), Ok(Bytes::mib(1)));
        let header = |change: fn(&mut Vec<u8>)| matches!(vhdx_with(change), Err(Unfit::Header(_)));
        assert_eq!(vhdx_with(|b| b[0] = b'V'), Err(Unfit::NotLike("vhdx")));
        assert_eq!(vhdx_with(|b| b[ITEMS + 65536 + 12] = 2), Err(Unfit::Parent));
        let locator = |b: &mut Vec<u8>| {
            b[ITEMS + 10] = 3;
            b[ITEMS + 96..ITEMS + 112].copy_from_slice(&VHDX_PARENT.to_bytes_le());
        };
        assert_eq!(vhdx_with(locator), Err(Unfit::Parent));
        assert!(header(|b| b[192 << 10] = 0));
        assert!(header(|b| b[(192 << 10) + 8] = 0));
        assert!(header(|b| b[(192 << 10) + 8..(192 << 10) + 12].fill(0xff)));
        assert!(header(|b| b[ITEMS] = 0));
        assert!(header(|b| b[ITEMS + 10] = 1));
        // Twice the same.
        assert!(header(|b| b.copy_within(ITEMS + 32..ITEMS + 48, ITEMS + 64)));
        assert_eq!(
            vhdx_with(|b| b[(192 << 10) + 32..(192 << 10) + 40].fill(0xff)),
            Err(Unfit::CutShort)
        );
        assert_eq!(vhdx_with(|b| b.truncate(200 << 10)), Err(Unfit::CutShort));
        assert_eq!(vhdx_with(|b| b[ITEMS + 65536..ITEMS + 65544].fill(0)), Err(Unfit::NoDisk));
    }

    fn vdi_with(change: impl FnOnce(&mut Vec<u8>)) -> Result<Bytes, Unfit> {
        let mut bytes = vec![0; 1 << 20];
        bytes[64..68].copy_from_slice(&0xbeda_107f_u32.to_le_bytes());
        bytes[68..72].copy_from_slice(&0x1_0001u32.to_le_bytes());
        bytes[0x4c] = 1;
        bytes[0x170..0x178].copy_from_slice(&(1u64 << 20).to_le_bytes());
        change(&mut bytes);
        judged(Format::Vdi, &bytes)
    }

    #[test]
    fn a_vdi_passes_unless_it_is_a_difference_to_another() {
        assert_eq!(vdi_with(|_| {}), Ok(Bytes::mib(1)));
        assert_eq!(vdi_with(|b| b[0x4c] = 2), Ok(Bytes::mib(1)));
        assert_eq!(vdi_with(|b| b[0x4c] = 3), Err(Unfit::Parent));
        assert_eq!(vdi_with(|b| b[0x4c] = 4), Err(Unfit::Parent));
        assert_eq!(vdi_with(|b| b[0x1b0] = 1), Err(Unfit::Parent));
        assert_eq!(vdi_with(|b| b[0x1c7] = 1), Err(Unfit::Parent));
        assert!(matches!(vdi_with(|b| b[0x4c] = 5), Err(Unfit::Header(_))));
        assert!(matches!(vdi_with(|b| b[68] = 2), Err(Unfit::Header(_))));
        assert_eq!(vdi_with(|b| b[64] = 0), Err(Unfit::NotLike("vdi")));
        assert_eq!(vdi_with(|b| b.truncate(300)), Err(Unfit::CutShort));
        assert_eq!(vdi_with(|b| b[0x170..0x178].fill(0)), Err(Unfit::NoDisk));
        assert!(matches!(vdi_with(|b| b[0x170..0x178].fill(0xff)), Err(Unfit::VirtualSize { .. })));
    }
}

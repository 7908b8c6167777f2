//! The header of a qcow2 file, read and written as bytes: no I/O, no policy.
//!
//! Two need it: images are judged by it before any other program sees them, and root disks are
//! born from it. An overlay without data is four clusters of metadata, so it is written here
//! rather than by `qemu-img create`, which spends some twenty milliseconds of every boot on
//! starting a program and opening the base image.
//!
//! ```text
//!   cluster 0         1                2                 3 ..
//!   header, names     refcount table   refcount block    L1 table (all zero: read the base)
//! ```
//!
//! Numbers are big-endian; the layout is QEMU's docs/interop/qcow2.

use ostler_protocol::rpc::values::Bytes;

/// The first bytes of every qcow2 file.
pub(crate) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// As much of a file's beginning as [`Header::parse`] wants to see.
pub(crate) const HEADER_READ: usize = CLUSTER as usize;

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// An L1 entry stands for one cluster full of L2 entries, each for one cluster.
const BYTES_PER_L1_ENTRY: u64 = CLUSTER / 8 * CLUSTER;
/// With version 3 and the compression type, padded to eight.
const HEADER_LENGTH: u32 = 112;
/// The entry of an internal snapshot has so many bytes at least.
const LEAST_SNAPSHOT: u64 = 40;
const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
/// The format's own limit.
const LONGEST_BACKING: usize = 1023;
/// What is still sure to fit one refcount block: far above any disk, far below its 2 GiB.
pub(crate) const LARGEST: Bytes = Bytes(64 << 40);

/// Incompatible feature bits: those a reader must know to read the file at all.
pub(crate) mod feature {
    /// Not closed cleanly: reference counts may be wrong.
    pub(crate) const DIRTY: u64 = 1;
    /// Found to be corrupt.
    pub(crate) const CORRUPT: u64 = 1 << 1;
    /// The data is in another file.
    pub(crate) const DATA_FILE: u64 = 1 << 2;
    /// Compressed clusters may be of another kind than zlib.
    pub(crate) const COMPRESSION: u64 = 1 << 3;
    /// L2 entries are twice as wide.
    pub(crate) const EXTENDED_L2: u64 = 1 << 4;
    /// All of the above.
    pub(crate) const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
}

/// What a qcow2 header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// 2 or 3.
    pub(crate) version: u32,
    /// The size of the disk inside.
    pub(crate) virtual_size: Bytes,
    /// The file that holds what this one does not.
    pub(crate) backing: Option<Backing>,
    /// The encryption method; 0 is none.
    pub(crate) encryption: u32,
    /// See [`feature`].
    pub(crate) incompatible: u64,
    /// Where the last of the tables it names ends: mappings, reference counts, snapshots.
    pub(crate) tables_end: u64,
}

/// A reference to a backing file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backing {
    /// Its name as written, made printable; empty if it lies outside of what was read.
    pub(crate) name: String,
    /// Its format, if written.
    pub(crate) format: Option<String>,
}

/// Why bytes are not a qcow2 header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Another format, or none.
    #[error("it does not begin as a qcow2 file does")]
    Magic,
    /// The file ends within its header.
    #[error("it ends within the qcow2 header")]
    Short,
    /// A version nobody reads here.
    #[error("its qcow2 version is {0}; 2 and 3 can be used")]
    Version(u32),
    /// Cluster sizes have limits.
    #[error("its cluster size is 2^{0}; 2^9 to 2^21 can be")]
    ClusterBits(u32),
}

/// Why an overlay cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverlayError {
    /// Disks are made of sectors.
    #[error("a disk of {0:?} is not a whole number of 512-byte sectors")]
    Uneven(Bytes),
    /// Out of range.
    #[error("a disk of {0} cannot be: use 1 sector to {LARGEST}")]
    Size(Bytes),
    /// The name does not fit the header.
    #[error("the path of the base image is longer than {LONGEST_BACKING} bytes")]
    Name,
}

/// A disk without data of its own: what to write where; all else is zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Overlay {
    /// Offsets and what stands there.
    pub(crate) pieces: Vec<(u64, Vec<u8>)>,
    /// The length of the file.
    pub(crate) length: u64,
}

impl Header {
    /// Read a header from the first [`HEADER_READ`] bytes of a file, or all of a shorter one.
    pub(crate) fn parse(file: &[u8]) -> Result<Self, HeaderError> {
        if !file.starts_with(&MAGIC) {
            return Err(HeaderError::Magic);
        }
        let version = u32_at(file, 4)?;
        if !matches!(version, 2 | 3) {
            return Err(HeaderError::Version(version));
        }
        let cluster_bits = u32_at(file, 20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(HeaderError::ClusterBits(cluster_bits));
        }
        // Version 2 ends at 72 and has neither features nor a length.
        let (incompatible, length) =
            if version == 2 { (0, 72) } else { (u64_at(file, 72)?, u32_at(file, 100)?) };
        let backing_at = u64_at(file, 8)?;
        let backing = if backing_at == 0 {
            None
        } else {
            let name = bytes_at(file, backing_at, u32_at(file, 16)?).unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            Some(Backing { name, format: backing_format(file, length) })
        };
        let table = |at: u64, bytes: u64| u64_at(file, at).map(|start| start.saturating_add(bytes));
        let ends = [
            table(40, u64::from(u32_at(file, 36)?) * 8)?,
            table(48, u64::from(u32_at(file, 56)?) << cluster_bits)?,
            table(64, u64::from(u32_at(file, 60)?) * LEAST_SNAPSHOT)?,
        ];
        Ok(Self {
            version,
            tables_end: ends.into_iter().max().unwrap_or_default(),
            virtual_size: Bytes(u64_at(file, 24)?),
            backing,
            encryption: u32_at(file, 32)?,
            incompatible,
        })
    }
}

/// An overlay of `size` over a base, without data of its own.
///
/// `base_format` is written too, so that no reader ever guesses it from the base's bytes, which a
/// guest could have written.
pub(crate) fn overlay(size: Bytes, base: &str, base_format: &str) -> Result<Overlay, OverlayError> {
    begin(size, Some((base, base_format)))
}

/// A disk of `size` that is all zero.
pub(crate) fn empty(size: Bytes) -> Result<Overlay, OverlayError> {
    begin(size, None)
}

fn begin(size: Bytes, base: Option<(&str, &str)>) -> Result<Overlay, OverlayError> {
    if size.0 == 0 || size > LARGEST {
        return Err(OverlayError::Size(size));
    }
    if !size.0.is_multiple_of(512) {
        return Err(OverlayError::Uneven(size));
    }
    let name = base.map(|(name, _)| name).unwrap_or_default();
    if name.len() > LONGEST_BACKING {
        return Err(OverlayError::Name);
    }
    let l1_entries = size.0.div_ceil(BYTES_PER_L1_ENTRY);
    let clusters = 3 + (l1_entries * 8).div_ceil(CLUSTER);

    let mut names = Vec::new();
    if let Some((_, format)) = base {
        push_extension(&mut names, EXTENSION_BACKING_FORMAT, format.as_bytes());
    }
    push_extension(&mut names, EXTENSION_END, &[]);
    let backing_at = base.map_or(0, |_| u64::from(HEADER_LENGTH) + names.len() as u64);
    names.extend(name.as_bytes());

    let mut header = Vec::with_capacity(HEADER_LENGTH as usize + names.len());
    header.extend(MAGIC);
    header.extend(3u32.to_be_bytes());
    header.extend(backing_at.to_be_bytes());
    header.extend((name.len() as u32).to_be_bytes());
    header.extend(CLUSTER_BITS.to_be_bytes());
    header.extend(size.0.to_be_bytes());
    header.extend(0u32.to_be_bytes()); // no encryption
    header.extend((l1_entries as u32).to_be_bytes());
    header.extend((3 * CLUSTER).to_be_bytes()); // L1 table
    header.extend(CLUSTER.to_be_bytes()); // refcount table
    header.extend(1u32.to_be_bytes()); // of one cluster
    header.extend(0u32.to_be_bytes()); // no snapshots
    header.extend(0u64.to_be_bytes());
    header.extend(0u64.to_be_bytes()); // features: incompatible,
    header.extend(0u64.to_be_bytes()); // compatible,
    header.extend(0u64.to_be_bytes()); // auto-clear
    header.extend(4u32.to_be_bytes()); // refcounts are 2^4 bits wide
    header.extend(HEADER_LENGTH.to_be_bytes());
    header.resize(HEADER_LENGTH as usize, 0); // compression: zlib
    header.extend(names);

    let in_use = 1u16.to_be_bytes().repeat(clusters as usize);
    let pieces =
        vec![(0, header), (CLUSTER, (2 * CLUSTER).to_be_bytes().to_vec()), (2 * CLUSTER, in_use)];
    Ok(Overlay { pieces, length: clusters * CLUSTER })
}

fn push_extension(to: &mut Vec<u8>, kind: u32, data: &[u8]) {
    to.extend(kind.to_be_bytes());
    to.extend((data.len() as u32).to_be_bytes());
    to.extend(data);
    to.resize(to.len().next_multiple_of(8), 0);
}

fn backing_format(file: &[u8], header_length: u32) -> Option<String> {
    let mut at = u64::from(header_length);
    loop {
        let kind = u32_at(file, at).ok()?;
        let length = u32_at(file, at + 4).ok()?;
        let data = bytes_at(file, at + 8, length)?;
        match kind {
            EXTENSION_END => return None,
            EXTENSION_BACKING_FORMAT => return Some(String::from_utf8_lossy(data).into_owned()),
            _ => at += 8 + u64::from(length).next_multiple_of(8),
        }
    }
}

fn bytes_at(file: &[u8], at: u64, length: u32) -> Option<&[u8]> {
    let start = usize::try_from(at).ok()?;
    file.get(start..start.checked_add(length as usize)?)
}

fn array_at<const N: usize>(file: &[u8], at: u64) -> Result<[u8; N], HeaderError> {
    let bytes = bytes_at(file, at, N as u32).ok_or(HeaderError::Short)?;
    bytes.try_into().map_err(|_| HeaderError::Short)
}

fn u32_at(file: &[u8], at: u64) -> Result<u32, HeaderError> {
    array_at(file, at).map(u32::from_be_bytes)
}

fn u64_at(file: &[u8], at: u64) -> Result<u64, HeaderError> {
    array_at(file, at).map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn beginning(overlay: &Overlay) -> Vec<u8> {
        overlay.pieces[0].1.clone()
    }

    #[test]
    fn an_overlay_reads_back_as_written() {
        let overlay = overlay(Bytes::gib(20), "/base.qcow2", "qcow2").unwrap();
        let header = Header::parse(&beginning(&overlay)).unwrap();
        assert_eq!(header.virtual_size, Bytes::gib(20));
        let backing = Backing { name: "/base.qcow2".into(), format: Some("qcow2".into()) };
        assert_eq!(header.backing, Some(backing));
        assert_eq!((header.incompatible, header.encryption, header.version), (0, 0, 3));
    }

    #[test]
    fn an_empty_disk_has_no_base() {
        let header = Header::parse(&beginning(&empty(Bytes::gib(1)).unwrap())).unwrap();
        assert_eq!((header.virtual_size, header.backing), (Bytes::gib(1), None));
    }

    #[test]
    fn impossible_overlays_are_refused() {
        assert_eq!(overlay(Bytes(0), "/b", "raw"), Err(OverlayError::Size(Bytes(0))));
        assert!(overlay(Bytes(LARGEST.0 + 512), "/b", "raw").is_err());
        assert!(matches!(overlay(Bytes(513), "/b", "raw"), Err(OverlayError::Uneven(_))));
        assert_eq!(overlay(Bytes(512), &"x".repeat(1024), "raw"), Err(OverlayError::Name));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Header::parse(&bytes);
            for (byte, magic) in bytes.iter_mut().zip(*b"QFI\xfb\0\0\0\x03") {
                *byte = magic;
            }
            if let Some(bits) = bytes.get_mut(20..24) {
                bits.copy_from_slice(&16u32.to_be_bytes());
            }
            let _ = Header::parse(&bytes);
        }

        #[test]
        fn every_size_keeps_its_tables_apart(sectors in 1u64..(LARGEST.0 / 512)) {
            let made = overlay(Bytes(sectors * 512), "/base", "raw").unwrap();
            let mut end = 0;
            for (at, piece) in &made.pieces {
                prop_assert!(*at >= end);
                end = at + piece.len() as u64;
            }
            prop_assert!(end <= 3 * CLUSTER && made.length > 3 * CLUSTER);
        }
    }
}

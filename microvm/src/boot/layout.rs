//! Where things stand in guest memory before the guest runs.

use std::ops::Range;

use super::elf::Image;

/// Alignment of every piece in bytes: the largest base page a guest uses, so that freeing one piece frees whole pages.
const ALIGN: u64 = 0x1_0000;

/// Room for the RTAS blob in bytes; the guest reserves all of it.
pub const RTAS_SIZE: u64 = 0x1000;

/// Everything stands below this address: POWER8 guests take the first GiB as their real-mode area, and RTAS is
/// called in 32-bit mode (LoPAR, RTAS environment).
const REAL_MODE_LIMIT: u64 = 1 << 30;

/// Why the pieces do not fit.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LayoutError {
    /// The kernel alone is too large.
    #[error("the kernel ends at {end:#x}, beyond the {memory_bytes} bytes of guest memory")]
    KernelTooLarge {
        /// First address above it.
        end: u64,
        /// Memory size.
        memory_bytes: u64,
    },
    /// Something behind the kernel does not fit.
    #[error(
        "{what} of {size_bytes} bytes at {start:#x} does not fit below {limit:#x} (guest memory, and 1 GiB for the boot files)"
    )]
    DoesNotFit {
        /// Which piece.
        what: &'static str,
        /// Where it would start.
        start: u64,
        /// Its size.
        size_bytes: u64,
        /// The limit.
        limit: u64,
    },
}

/// Physical address ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The image.
    pub kernel: Range<u64>,
    /// The initramfs, if any.
    pub initrd: Option<Range<u64>>,
    /// The RTAS blob.
    pub rtas: Range<u64>,
    /// The flattened tree.
    pub fdt: Range<u64>,
}

/// Places initramfs (`initrd_bytes`), RTAS blob and a tree of `fdt_bytes` behind `image`.
///
/// # Errors
/// [`LayoutError`] names the piece that does not fit.
pub fn place(image: &Image, initrd_bytes: Option<u64>, memory_bytes: u64, fdt_bytes: u64) -> Result<Layout, LayoutError> {
    if image.end > memory_bytes {
        return Err(LayoutError::KernelTooLarge { end: image.end, memory_bytes });
    }
    let limit = memory_bytes.min(REAL_MODE_LIMIT);
    let mut next = image.end;
    let mut take = |what: &'static str, size_bytes: u64| {
        let start = next.checked_next_multiple_of(ALIGN).unwrap_or(u64::MAX);
        match start.checked_add(size_bytes).filter(|end| *end <= limit) {
            Some(end) => {
                next = end;
                Ok(start..end)
            }
            None => Err(LayoutError::DoesNotFit { what, start, size_bytes, limit }),
        }
    };
    let initrd = initrd_bytes.map(|size| take("the initramfs", size)).transpose()?;
    let rtas = take("the RTAS blob", RTAS_SIZE)?;
    let fdt = take("the device tree", fdt_bytes)?;
    Ok(Layout { kernel: image.base..image.end, initrd, rtas, fdt })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::elf::ImageKind;

    fn image(end: u64) -> Image {
        Image { kind: ImageKind::Linux, little_endian: true, segments: Vec::new(), entry: 0, base: 0, end }
    }

    #[test]
    fn pieces_follow_the_kernel_on_page_boundaries() {
        let layout = place(&image(0x123_4567), Some(100), 64 << 20, 5000).unwrap();
        let initrd = layout.initrd.unwrap();
        assert_eq!(initrd, 0x124_0000..0x124_0064);
        assert_eq!(layout.rtas.start, 0x125_0000);
        assert_eq!(layout.fdt, 0x126_0000..0x126_0000 + 5000);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        assert!(matches!(place(&image(65 << 20), None, 64 << 20, 0), Err(LayoutError::KernelTooLarge { .. })));
        let error = place(&image(1 << 20), Some(64 << 20), 64 << 20, 0).unwrap_err();
        assert!(matches!(error, LayoutError::DoesNotFit { what: "the initramfs", .. }));
        let error = place(&image(1 << 20), Some(2 << 30), 8 << 30, 0).unwrap_err();
        assert!(matches!(error, LayoutError::DoesNotFit { what: "the initramfs", limit: REAL_MODE_LIMIT, .. }));
        let error = place(&image(1 << 20), Some(u64::MAX - 5), 8 << 30, 0).unwrap_err();
        assert!(matches!(error, LayoutError::DoesNotFit { .. }));
        let error = place(&image(1 << 20), None, 2 << 20, 1 << 20).unwrap_err();
        assert!(matches!(error, LayoutError::DoesNotFit { what: "the device tree", .. }));
    }
}

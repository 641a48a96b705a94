//! The loader of kernels and bare-metal programs: whatever the file, an error or an image that keeps its promises.

use paperboat_microvm::boot::{Image, load_elf};

/// Loads the bytes as an image, where it is linked and elsewhere.
pub fn run(data: &[u8]) {
    for load_address in [None, Some(0x4_0000), Some(u64::MAX - 0xffff)] {
        if let Ok(image) = load_elf(data, load_address) {
            check(&image, data);
        }
    }
}

fn check(image: &Image, data: &[u8]) {
    assert!(!image.segments.is_empty(), "an image without segments");
    assert!(
        (image.base..image.end).contains(&image.entry),
        "entry {:#x} outside {:#x}..{:#x}",
        image.entry,
        image.base,
        image.end
    );
    let mut at = image.base;
    for segment in &image.segments {
        assert!(segment.address >= at, "a segment at {:#x} overlaps or is out of order", segment.address);
        let bytes = &segment.file_range;
        assert!(bytes.start <= bytes.end && bytes.end <= data.len() as u64, "a segment of bytes {bytes:?} beyond the file");
        assert!(bytes.end - bytes.start <= segment.size_bytes, "a segment larger in the file than in memory");
        at = segment.address.checked_add(segment.size_bytes).expect("a segment that wraps round");
    }
    assert!(at <= image.end, "the last segment ends behind the image");
}

//! Page sizes that a guest may use: those of the processor that fit into the pages that back guest memory. KVM refuses H_ENTER for larger ones,
//! although its list names them.

use paperboat_hypervisor::{PageSizeEncoding, SegmentPageSizes};

use crate::bindings::{KVM_PPC_PAGE_SIZES_REAL, kvm_ppc_smmu_info};

/// The rows of `info` whose pages are at most 2^`backing_shift` bytes.
pub fn segment_page_sizes(info: &kvm_ppc_smmu_info, backing_shift: u32) -> Vec<SegmentPageSizes> {
    let limited = info.flags & u64::from(KVM_PPC_PAGE_SIZES_REAL) != 0;
    let fits = |shift: u32| shift != 0 && (!limited || shift <= backing_shift);
    info.sps
        .iter()
        .filter(|row| fits(row.page_shift))
        .map(|row| SegmentPageSizes {
            base_shift: row.page_shift,
            slb_encoding: row.slb_enc,
            pages: row
                .enc
                .iter()
                .filter(|page| fits(page.page_shift))
                .map(|page| PageSizeEncoding { page_shift: page.page_shift, pte_encoding: page.pte_enc })
                .collect(),
        })
        .filter(|row| !row.pages.is_empty())
        .collect()
}

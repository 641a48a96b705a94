//! The macro that turns rows into a class of instructions.

/// Declares a class: an enum with one variant per row, and the rows.
///
/// A row is `Variant = "mnemonic", encoding, "OPERANDS", Level, Facility [, rc] [, oe] [, supervisor] [, hypervisor];`.
macro_rules! instruction_class {
    (
        $(#[$meta:meta])*
        pub enum $class:ident {
            $( $op:ident = $mnemonic:literal, $encoding:expr, $operands:literal, $level:ident, $facility:ident $(, $attribute:ident)* ; )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u16)]
        #[allow(missing_docs, reason = "each variant is documented by its row's mnemonic and operands")]
        pub enum $class { $( $op, )* }

        impl $class {
            /// Every instruction of the class, in table order.
            pub const ALL: &'static [Self] = &[ $( Self::$op, )* ];

            /// The rows, in the same order.
            pub const ROWS: &'static [$crate::table::Row] = &[ $(
                {
                    #[allow(unused_mut, reason = "rows without attributes stay as they are")]
                    let mut row = $crate::table::Row {
                        mnemonic: $mnemonic,
                        encoding: $encoding,
                        operands: $operands,
                        level: $crate::table::Level::$level,
                        facility: $crate::table::Facility::$facility,
                        privilege: $crate::table::Privilege::Problem,
                        has_rc: false,
                        has_oe: false,
                    };
                    $( instruction_class!(@attribute row $attribute); )*
                    row
                },
            )* ];

            /// This instruction's row.
            pub const fn row(self) -> &'static $crate::table::Row {
                &Self::ROWS[self as usize]
            }
        }
    };
    (@attribute $row:ident rc) => { $row.has_rc = true; };
    (@attribute $row:ident oe) => { $row.has_oe = true; };
    (@attribute $row:ident supervisor) => { $row.privilege = $crate::table::Privilege::Supervisor; };
    (@attribute $row:ident hypervisor) => { $row.privilege = $crate::table::Privilege::Hypervisor; };
}

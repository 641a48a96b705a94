//! Tests of the translation rules, one each.

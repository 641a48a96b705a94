//! A slow model of translation, written from the text of the ISA.

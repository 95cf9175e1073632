"""What translates: one module an engine, all behind `contract`; `choosing` goes from what a user writes to engines."""

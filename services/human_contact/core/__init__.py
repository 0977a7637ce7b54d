"""Pure: what people are asked, when, and what their answers mean. No clock, no ids, no I/O."""

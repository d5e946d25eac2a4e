-- Pins have the addresses that datagrams come from, where those are not the same.
ALTER TABLE registrations ADD COLUMN pin_udp4 TEXT NOT NULL DEFAULT '';
ALTER TABLE registrations ADD COLUMN pin_udp6 TEXT NOT NULL DEFAULT '';

-- Where authentic messages have come from since the registration was blocked.
ALTER TABLE registrations ADD COLUMN seen4 TEXT NOT NULL DEFAULT '';
ALTER TABLE registrations ADD COLUMN seen6 TEXT NOT NULL DEFAULT '';
ALTER TABLE registrations ADD COLUMN seen_udp4 TEXT NOT NULL DEFAULT '';
ALTER TABLE registrations ADD COLUMN seen_udp6 TEXT NOT NULL DEFAULT '';

-- How often it was blocked, and the TAI64N timestamp of its newest WireGuard initiation.
ALTER TABLE registrations ADD COLUMN blocks INTEGER NOT NULL DEFAULT 0;
ALTER TABLE registrations ADD COLUMN newest BLOB NOT NULL DEFAULT x'000000000000000000000000' CHECK (length(newest) = 12);

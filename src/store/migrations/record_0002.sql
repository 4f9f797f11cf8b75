-- What retention drops, oldest first.
CREATE INDEX exchange_day ON exchange (day);

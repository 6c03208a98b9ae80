"""The options of a server, a file for each part of it; `penstock.config` puts them together."""

"""What hpv stores: Zarr v3 with a format, a version and checksums. The only wing that knows Zarr."""

"""The asset service: uploads, receipts, assets, holds, expiry, and the bucket `workspace-temp`."""

//! Our agent where there is next to nothing: no root disk, no /etc, no network, not even a port yet.

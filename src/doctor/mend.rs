//! Does what the remedy of a finding says.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::config::Config;
use crate::finding::Remedy;
use crate::store::{self, OpenMode, StoreError};

/// For the owner, as much as there was.
const OWNER_ONLY: u32 = 0o700;

/// Why a finding could not be mended.
#[derive(Debug, thiserror::Error)]
pub enum MendError {
    #[error("cannot {remedy}")]
    Files {
        remedy: Remedy,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Mends one finding.
///
/// # Errors
/// When the system or the database refuses.
pub async fn mend(config: &Config, remedy: &Remedy) -> Result<(), MendError> {
    let done = match remedy {
        Remedy::MakeDirectory(path) => std::fs::create_dir_all(path),
        Remedy::Restrict(path) => restrict(path),
        Remedy::Migrate => {
            let store = store::open(&config.bus, OpenMode::Create).await?;
            let migrated = store.migrate(false).await;
            store.close().await?;
            migrated?;
            Ok(())
        }
    };
    done.map_err(|source| MendError::Files {
        remedy: remedy.clone(),
        source,
    })
}

fn restrict(path: &Path) -> io::Result<()> {
    let mut permissions = std::fs::metadata(path)?.permissions();
    permissions.set_mode(permissions.mode() & OWNER_ONLY);
    std::fs::set_permissions(path, permissions)
}

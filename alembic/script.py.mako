"""${message}"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}

OLDEST = ${repr(up_revision)}  # the newest migration of the oldest program that can work with this


def _wait_briefly_for_locks() -> None:
    # A schema change that waits for a lock makes every later query wait behind it.
    if op.get_context().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")


def upgrade() -> None:
    _wait_briefly_for_locks()
    ${upgrades if upgrades else "pass"}
    compatibility = sa.table("compatibility", sa.column("version", sa.String()), sa.column("oldest", sa.String()))
    op.bulk_insert(compatibility, [{"version": revision, "oldest": OLDEST}])


def downgrade() -> None:
    _wait_briefly_for_locks()
    op.execute(sa.text("DELETE FROM compatibility WHERE version = :version").bindparams(version=revision))
    ${downgrades if downgrades else "pass"}

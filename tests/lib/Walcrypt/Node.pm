# A server of a test: PostgreSQL::Test::Cluster, and what the storage layer adds. Walcrypt.pm loads it and shows its use.
use strict;
use warnings;

package Walcrypt::Node;

# nothing is imported here: names like command_ok would hide the methods
use parent -norequire, 'PostgreSQL::Test::Cluster';
use IPC::Run ();
use PostgreSQL::Test::Cluster ();
use PostgreSQL::Test::Utils ();
use Test::More ();

sub _get_env
{
	my ($self, @mods) = @_;
	my %env = $self->SUPER::_get_env(@mods);
	%env = (%env, Walcrypt::layer_env($self->{_walcrypt_kek}, $self->data_dir)) if defined $self->{_walcrypt_kek};
	return %env;
}

# From now on this node's programs run under the storage layer with this cluster key (undef: stock again).
sub use_layer
{
	my ($self, $kek) = @_;
	$self->{_walcrypt_kek} = $kek;
	return $self;
}

# Run a program as this node's programs run; (success, stdout, stderr).
sub run_program
{
	my ($self, @command) = @_;
	local %ENV = $self->_get_env;
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run([@command], '<', \undef, '>', \$out, '2>', \$err);
	return ($ok, $out, $err);
}

# kill -9 of the postmaster; returns when all its processes are gone. Where nobody reaps orphans at once, a zombie looks alive
# to the next start: its lock files go too.
sub kill9
{
	my ($self) = @_;
	my $pid = $self->{_pid};
	$self->SUPER::kill9;
	return unless defined $pid;
	my $dir = $self->data_dir;
	Walcrypt::wait_for('the server to die', sub {
		return Walcrypt::slurp_from("/proc/$pid/stat") !~ /^\d+ \(.*\) [^Z]/s && !grep { (readlink($_) // '') eq $dir } glob('/proc/[0-9]*/cwd');
	});
	unlink "$dir/postmaster.pid", $self->host . '/.s.PGSQL.' . $self->port . '.lock';
	return;
}

sub connstr_for_proxy
{
	my ($self) = @_;
	return 'host=' . $self->host . ' port=' . $self->port . ' user=' . (getpwuid($<))[0];
}

# A new cluster made encrypted by walcrypt-ctl initdb.
sub init_encrypted
{
	my ($self, $kek, %params) = @_;
	my $extra = delete $params{extra} // [];
	my $initdb = sub {
		Walcrypt::ctl('initdb', '-D', $self->data_dir, '--kek', $kek, @{ delete $params{ctl_options} // [] },
			'--', '-A', 'trust', '-N', @$extra);
	};
	# Cluster::init with its initdb replaced by ours
	no warnings 'redefine';
	my $original = \&PostgreSQL::Test::Utils::system_or_bail;
	local *PostgreSQL::Test::Utils::system_or_bail = sub {
		return $_[0] eq 'initdb' ? $initdb->() : $original->(@_);
	};
	$self->init(%params);
	return $self->use_layer($kek);
}

# One test: PostgreSQL's own checks find nothing wrong with a running node: amcheck with heapallindexed on every B-tree index and
# verify_heapam on every table of every database, then, with the server stopped, pg_checksums. The node stays stopped, with
# restart => 1 it is started again. A standby needs the primary whose WAL it replays, for CREATE EXTENSION: primary => $node.
sub check_integrity
{
	my ($self, $what, %params) = @_;
	my $name = $what // $self->name;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return Test::More::is($self->integrity_findings(%params), '', "$name: amcheck, verify_heapam and pg_checksums find nothing");
}

# Does this node's build have amcheck? That of 16 has no contrib modules; everywhere else a missing one is a fault that the tests find.
sub amcheck_there
{
	my ($self) = @_;
	return $self->safe_psql('postgres', "SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'") || Walcrypt::postgres_major() != 16;
}

# What they find, a text that is empty when all is well.
sub integrity_findings
{
	my ($self, %params) = @_;
	my $creator = $params{primary} // $self;
	my ($recovery, $checksums) = split(/\|/, $self->safe_psql('postgres', "SELECT pg_is_in_recovery(), current_setting('data_checksums')"));
	my ($indexes, $tables, @findings) = (0, 0);
	my $amcheck = $creator->amcheck_there;
	for my $db ($amcheck ? split(/\n/, $creator->safe_psql('postgres', 'SELECT datname FROM pg_database WHERE datallowconn')) : ()) {
		$creator->safe_psql($db, 'CREATE EXTENSION IF NOT EXISTS amcheck');
		if ($creator != $self) {
			my $lsn = $creator->lsn('insert');
			$self->poll_query_until($db, "SELECT pg_last_wal_replay_lsn() >= '$lsn'") or die 'the standby ' . $self->name . " does not catch up\n";
		}
		# a parent check locks, which a standby cannot
		my $check = $recovery eq 't' ? 'bt_index_check(c.oid, true)' : 'bt_index_parent_check(c.oid, true, true)';
		my $lasting = "c.relpersistence <> 't'" . ($recovery eq 't' ? " AND c.relpersistence <> 'u'" : '');
		my ($out, $err) = ('', '');
		$self->psql($db, "SELECT count($check) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
			JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND c.relkind = 'i' AND i.indisvalid AND i.indisready AND $lasting", stdout => \$out, stderr => \$err);
		$indexes += $out || 0;
		push @findings, "$db: $err" if $err ne '';
		$self->psql($db, "SELECT count(DISTINCT c.oid), string_agg(c.oid::regclass || ', block ' || v.blkno || ', offset ' || coalesce(v.offnum, 0) || ': ' || v.msg, E'\\n')
			FROM pg_class c JOIN pg_am a ON a.oid = c.relam LEFT JOIN LATERAL verify_heapam(c.oid, check_toast => true) v ON true
			WHERE a.amname = 'heap' AND c.relkind IN ('r', 't', 'm') AND $lasting", stdout => \$out, stderr => \$err);
		my ($n, $bad) = split(/\|/, $out || '0|', 2);
		$tables += $n;
		push @findings, "$db: $_" for grep { $_ ne '' } $bad // '', $err;
	}
	push @findings, "only $indexes indexes and $tables tables were looked at" if $amcheck && ($indexes < 100 || $tables < 60);
	$self->stop;
	if ($checksums eq 'on') {
		local %ENV = $self->_get_env;
		my ($out, $err) = ('', '');
		IPC::Run::run([ $self->installed_command('pg_checksums'), '--check', '-D', $self->data_dir ], '<', \undef, '>', \$out, '2>', \$err);
		push @findings, "pg_checksums: $out$err" if $? != 0 || $out !~ /^Bad checksums:  0$/m;
	}
	$self->start if $params{restart};
	return join("\n", @findings);
}

# An encrypted standby NAME built with stock pg_basebackup through the proxy; options: slot, extra.
sub init_from_proxy
{
	my ($self, $proxy, $name, %params) = @_;
	my @slot = defined $params{slot} ? ('-S', $params{slot}) : ();
	push @slot, '-C' if $params{create_slot};
	mkdir $self->backup_dir;
	mkdir $self->archive_dir;
	PostgreSQL::Test::Utils::system_or_bail('pg_basebackup', '-D', $self->data_dir, '-d', $proxy->connstr($name),
		'--checkpoint=fast', '--no-sync', '-R', @slot, @{ $params{extra} // [] });
	# in the file that pg_verifybackup ignores; -R has written a conninfo of its own, the application name is to be the node's
	$self->append_conf('postgresql.auto.conf', 'port = ' . $self->port . "\nunix_socket_directories = '" . $self->host . "'\n"
		. "primary_conninfo = '" . $proxy->connstr($name) . " application_name=" . $self->name . "'\n");
	return $self->use_layer($proxy->kek_uri);
}

# A standby becomes the primary in the plain way: it has replayed everything, the old one stops, it is promoted.
sub take_over
{
	my ($self, $from) = @_;
	$from->wait_for_catchup($self->name, 'replay', $from->lsn('insert'));
	$from->stop;
	$self->promote;
	return;
}

1;

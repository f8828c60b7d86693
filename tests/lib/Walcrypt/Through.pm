# PostgreSQL's own suites with every replication connection through walcrypt-proxy (tests/postgres/run --proxy): loaded with -M into a test file that
# knows nothing of it. One proxy for the file; each server that starts is an upstream of it, sealed-PORT and clear-PORT are what streams from the
# server on PORT: sealed standbys under a keyset of that server's (own_keyset), so that relation keys change with each hop; clear ones are clear servers
# that come back as a standby. What is changed: primary_conninfo where a test writes it (append_conf, ALTER SYSTEM). pg_basebackup and
# pg_receivewal are tests/postgres/bin-proxy's, which look in WALCRYPT_THROUGH for PORT: a file with the proxy's host, port and user.
use strict;
use warnings;

package Walcrypt::Through;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Walcrypt;

my ($proxy, %server, %known);

sub sealed { my ($node) = @_; return -d $node->data_dir . '/pg_cryptokeys'; }

# The keyset of the keystore with which a data directory is encrypted; one that is not there yet (walcrypt-ctl initdb drew it) is copied.
sub keyset_of
{
	my ($node) = @_;
	my ($id) = slurp_from($node->data_dir . '/pg_cryptokeys/live/keyset.json') =~ /"relation_id": *"(\w+)"/ or die 'no key id in the key directory of ' . $node->name . "\n";
	for my $json (glob($proxy->keystore . '/*/live/keyset.json')) {
		return (split(m{/}, $json))[-3] if slurp_from($json) =~ /"relation_id": *"$id"/;
	}
	my $name = 'own-' . $node->port;
	PostgreSQL::Test::Utils::system_or_bail('cp', '-a', $node->data_dir . '/pg_cryptokeys', $proxy->keystore . "/$name");
	return $name;
}

sub system_identifier
{
	my ($node) = @_;
	my ($out) = run_command([ 'pg_controldata', $node->data_dir ]);
	return $out =~ /^Database system identifier: +(\d+)/m ? $1 : die 'no system identifier in ' . $node->data_dir . "\n";
}

# The keyset for what is built from a server. Incremental backups of two servers are put together only under one relation key: their suite has one
# for each cluster.
sub own_keyset
{
	my ($node) = @_;
	return 'k-' . ($ENV{WALCRYPT_SUITE} eq 'pg_combinebackup' ? system_identifier($node) : $node->port);
}

# The server is an upstream of the proxy, as it is now: clear or under whichever keyset.
sub upstream
{
	my ($node) = @_;
	my ($port, $new) = ($node->port, !defined $proxy);
	$proxy //= Walcrypt::Proxy->new(kek => $ENV{WALCRYPT_KEK} =~ s/^file://r, settings => { allow_no_checksums => 'on' });
	my $keyset = sealed($node) ? keyset_of($node) : 'none';
	return if defined $known{$port} && $known{$port} eq $keyset;
	my $own = own_keyset($node);
	if (!-d $proxy->keystore . "/$own") {
		ctl('key', 'init', $own, '--config', $proxy->conf, '--kek', $proxy->kek_uri, '--system-identifier', system_identifier($node));
	}
	$proxy->{nodes}{"up-$port"} = { conninfo => 'host=' . $node->host . " port=$port user=" . (getpwuid($<))[0], keyset => $keyset };
	my %downstream = (upstream => "up-$port", postgres_major() >= 17 ? (allow_sql => 'slotsync') : ());
	$proxy->{nodes}{"sealed-$port"} = { %downstream, keyset => $own };
	$proxy->{nodes}{"clear-$port"} = { %downstream, allow_clear => 'on' };
	$proxy->write_conf;
	if ($new) {
		$ENV{WALCRYPT_THROUGH} = "$proxy->{dir}/servers";
		mkdir $ENV{WALCRYPT_THROUGH};
		$proxy->start;
	} else {
		my $before = $proxy->log_size;
		kill('HUP', $proxy->pid);
		wait_for('the proxy to reload', sub { $proxy->log($before) =~ /reloaded; sessions|ERROR/ });
	}
	$known{$port} = $keyset;
	append_to_file("$ENV{WALCRYPT_THROUGH}/$port", $proxy->host . ' ' . $proxy->port . " sealed-$port\n") unless -e "$ENV{WALCRYPT_THROUGH}/$port";
	return;
}

# A text of configuration or SQL in which the node's primary_conninfo leads to the proxy.
sub through
{
	my ($node, $text) = @_;
	return $text =~ s{(primary_conninfo\s*=\s*')((?:[^']|'')*)(?=')}{
		my ($begin, $conninfo) = ($1, $2);
		my ($port) = $conninfo =~ /\bport=(\d+)/;
		if (defined $port && $server{$port}) {
			upstream($server{$port});
			my $user = (sealed($node) ? 'sealed' : 'clear') . "-$port";
			$conninfo =~ s/\b(?:host|port|user)=\S*//g;
			$conninfo = $proxy->connstr($user) . " $conninfo";
		}
		$begin . $conninfo}ger;
}

{
	package PostgreSQL::Test::Cluster;
	no warnings 'redefine';

	my ($new, $start, $append_conf, $psql) = (\&new, \&start, \&append_conf, \&psql);
	*new = sub {
		my $node = $new->(@_);
		$server{ $node->port } = $node;
		return $node;
	};
	*start = sub {
		my ($self, @rest) = @_;
		my $ok = $start->($self, @rest);
		Walcrypt::Through::upstream($self) if $ok;
		return $ok;
	};
	*append_conf = sub {
		my ($self, $file, $text) = @_;
		return $append_conf->($self, $file, Walcrypt::Through::through($self, $text));
	};
	*psql = sub {
		my ($self, $database, $sql, @rest) = @_;
		return $psql->($self, $database, defined $sql && $sql =~ /ALTER SYSTEM/ ? Walcrypt::Through::through($self, $sql) : $sql, @rest);
	};
}

1;

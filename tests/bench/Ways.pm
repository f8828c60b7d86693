# The ways to one primary that the proxy's benches compare: "direct", "haproxy", "walcrypt"; with TLS to the client "stunnel" and "walcrypt-tls".
package Ways;
use strict;
use warnings;
use Bench;
use Exporter 'import';
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Walcrypt;
use Walcrypt::Certificates;

our @EXPORT = qw(ways_start ways_connstr ways_pid ways_stop $red $proxy);
our ($red, $proxy);
my (%port, %pid);
my $me = (getpwuid($<))[0];

# A program that lives as long as the bench and listens on a port of its own.
sub helper
{
	my ($name, $conf, @command) = @_;
	unlink "$tmp/$name.conf";    # of the part before
	append_to_file("$tmp/$name.conf", $conf);
	$pid{$name} = fork() // die;
	exec(@command, "$tmp/$name.conf") if $pid{$name} == 0;
	wait_for($name, sub { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port{$name}) });
	return;
}
END { my $s = $?; kill('TERM', @pid{ grep { !/^walcrypt/ } keys %pid }) if %pid; $? = $s; }

# conf: more of the primary's configuration; tls: the ways with TLS, too.
sub ways_start
{
	my (%how) = @_;
	$red = Walcrypt::Node->new('red');
	$red->init(allows_streaming => 1, extra => ['-k']);
	# HAProxy and the direct way go over TCP, so everybody does
	$red->append_conf('postgresql.conf', "listen_addresses = '127.0.0.1'\nshared_buffers = 256MB\nmax_wal_size = 8GB\nfsync = on\nlog_statement = none\n" . ($how{conf} // ''));
	append_to_file($red->data_dir . '/pg_hba.conf', "host all,replication all 127.0.0.1/32 trust\n");
	$red->start;
	my ($pki, %settings);
	if ($how{tls}) {
		$pki = Walcrypt::Certificates->new("$tmp/pki");
		$pki->authority('ca');
		$pki->make('server', ca => 'ca', cn => 'localhost', names => 'DNS:localhost,IP:127.0.0.1');
		%settings = (client_tls_sslmode => 'allow', client_tls_cert_file => $pki->file('server.crt'), client_tls_key_file => $pki->file('server.key'));
	}
	$proxy = Walcrypt::Proxy->new(settings => \%settings, nodes => {
		red  => { conninfo => 'host=127.0.0.1 port=' . $red->port . " user=$me" },
		blue => { keyset => 'blue' } });
	$proxy->key_init('blue');
	$proxy->start;
	$port{direct} = $red->port;
	$port{walcrypt} = $port{'walcrypt-tls'} = $proxy->port;
	$pid{walcrypt}  = $pid{'walcrypt-tls'}  = $proxy->pid;
	$port{$_} = PostgreSQL::Test::Cluster::get_free_port() for qw(haproxy stunnel);
	helper('haproxy', "global\n  maxconn 200\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n"
		. "listen pg\n  bind 127.0.0.1:$port{haproxy}\n  server red 127.0.0.1:$port{direct}\n", 'haproxy', '-db', '-f');
	helper('stunnel', "foreground = yes\npid =\n[pg]\naccept = 127.0.0.1:$port{stunnel}\nconnect = 127.0.0.1:$port{direct}\nprotocol = pgsql\n"
		. 'cert = ' . $pki->file('server.crt') . "\nkey = " . $pki->file('server.key') . "\n", 'stunnel4') if $how{tls};
	return;
}

sub ways_connstr
{
	my ($way) = @_;
	return "host=127.0.0.1 port=$port{$way} user=" . ($way =~ /^walcrypt/ ? 'blue' : $me) . ' sslmode=' . ($way =~ /^stunnel|tls$/ ? 'require' : 'disable');
}

# undef for the direct way
sub ways_pid { return $pid{ $_[0] }; }

sub ways_stop { $proxy->stop; $red->stop; return; }

1;

# A real OpenBao server for the tests; or any Vault, by WALCRYPT_TEST_VAULT (http://127.0.0.1:8200) and WALCRYPT_TEST_VAULT_TOKEN_FILE.
#
#   my $vault = Walcrypt::Vault->new(name => 'dev');                     bao server -dev: KV 2 at secret/
#   my $vault = Walcrypt::Vault->new(name => 'tls', tls => 1);           TLS, storage on disk, sealed and unsealed
#   $vault->cli('kv', 'get', ...)                                        the server's own command line, as root
package Walcrypt::Vault;

use strict;
use warnings;
use File::Temp ();
use IO::Socket::INET;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Cluster ();
use PostgreSQL::Test::Utils;
use Walcrypt;

sub new
{
	my ($class, %o) = @_;
	my $dir  = $PostgreSQL::Test::Utils::tmp_check . "/vault_$o{name}";
	my $self = bless { name => $o{name}, dir => $dir, tls => $o{tls}, token_file => "$dir/token" }, $class;
	mkdir $dir, 0700 or die "$dir: $!";
	if (!$o{tls} && $ENV{WALCRYPT_TEST_VAULT}) {
		($self->{host_port}) = $ENV{WALCRYPT_TEST_VAULT} =~ m{^http://([^/]+)} or die 'WALCRYPT_TEST_VAULT';
		$self->put_token(slurp_file($ENV{WALCRYPT_TEST_VAULT_TOKEN_FILE}) =~ s/\s+//gr);
		return $self;
	}
	die "there is no OpenBao: scripts/openbao fetches it\n" unless -x $ENV{WALCRYPT_BAO};
	$self->{port}      = PostgreSQL::Test::Cluster::get_free_port();
	$self->{host_port} = ($o{tls} ? 'localhost' : '127.0.0.1') . ":$self->{port}";
	$o{tls} ? $self->make_tls : $self->put_token('root-of-' . $o{name});
	$self->start;
	$self->initialize if $o{tls};
	return $self;
}

sub host_port { return $_[0]->{host_port}; }
sub token_file { return $_[0]->{token_file}; }
sub ca_file { return "$_[0]->{dir}/ca.pem"; }
sub port { return $_[0]->{port}; }

# vault-kv (or vault-transit) URI of a path, with options
sub uri
{
	my ($self, $scheme, $path, %options) = @_;
	%options = (token_file => $self->{token_file}, ($self->{tls} ? (ca_file => $self->ca_file) : ()), %options);
	return $scheme . ($self->{tls} ? '' : '+http') . "://$self->{host_port}/$path?"
	  . join('&', map { "$_=$options{$_}" } grep { defined $options{$_} } sort keys %options);
}

# Without options.
sub bare_uri
{
	my ($self, $scheme, $path) = @_;
	return $scheme . ($self->{tls} ? '' : '+http') . "://$self->{host_port}/$path";
}

sub put_token
{
	my ($self, $token, $file) = @_;
	$file //= $self->{token_file};
	my $umask = umask(077);
	open(my $f, '>', $file) or die "$file: $!";
	print $f "$token\n";
	close $f;
	umask($umask);
	return $file;
}

# An authority, a certificate for localhost, and one for a client.
sub make_tls
{
	my ($self) = @_;
	my $d = $self->{dir};
	open(my $ext, '>', "$d/ext") or die;
	print $ext "subjectAltName=DNS:localhost\n";
	close $ext;
	system_or_bail('sh', '-c', "cd $d && exec 2>openssl.log
		openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem &&
		openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr &&
		openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem &&
		openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=stranger -keyout other.key -out other.pem");
	# in memory where that can be had: each login is several writes that wait for the disk, and tokens live for seconds in tests
	my ($free) = -w '/dev/shm' ? `df -kP /dev/shm` =~ /\n\S+\s+\d+\s+\d+\s+(\d+)/ : ();
	my $data = ($free // 0) > 1 << 20 ? File::Temp::tempdir(DIR => '/dev/shm', CLEANUP => 1) : "$d/data";    # a gigabyte; 33 MB are needed
	mkdir $data;
	my $cluster = PostgreSQL::Test::Cluster::get_free_port();
	open(my $f, '>', "$d/bao.hcl") or die;
	print $f qq(storage "raft" { path = "$data"\n node_id = "one" }\napi_addr = "https://localhost:$self->{port}"\n)
	  . qq(cluster_addr = "https://127.0.0.1:$cluster"\nlistener "tcp" { address = "127.0.0.1:$self->{port}"\n tls_cert_file = "$d/server.pem"\n)
	  . qq( tls_key_file = "$d/server.key" }\n);
	close $f;
	return;
}

sub start
{
	my ($self) = @_;
	my @command = ($ENV{WALCRYPT_BAO}, 'server');
	push @command, $self->{tls} ? ('-config', "$self->{dir}/bao.hcl")
	  : ('-dev', '-dev-no-store-token', '-dev-root-token-id=' . slurp_file($self->{token_file}) =~ s/\s+//gr, "-dev-listen-address=$self->{host_port}");
	$self->{out} = "$self->{dir}/log";
	local $ENV{HOME} = $self->{dir};
	$self->{pid} = in_background($self->{out}, @command);
	wait_for("OpenBao $self->{name}", sub { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port}) });
	wait_for("OpenBao $self->{name} unsealed", sub { ($self->cli_output('status'))[0] == 0 }) unless $self->{tls};
	return;
}

sub stop
{
	my ($self) = @_;
	return unless $self->{pid};
	kill('TERM', $self->{pid});
	waitpid($self->{pid}, 0);
	delete $self->{pid};
	return;
}

sub DESTROY { my ($self) = @_; local $?; $self->stop; return; }

sub initialize
{
	my ($self) = @_;
	my $made = decode_json($self->cli('operator', 'init', '-key-shares=1', '-key-threshold=1', '-format=json'));
	$self->{unseal_key} = $made->{unseal_keys_b64}[0];
	$self->put_token($made->{root_token});
	$self->unseal;
	$self->cli('secrets', 'enable', '-path=secret', '-version=2', 'kv');
	return;
}

# cert, key: what its client shows from now on
# An unsealed server answers as a standby for a moment.
sub unseal
{
	my ($self, %client) = @_;
	$self->{client} = {%client} if %client;
	$self->cli('operator', 'unseal', $self->{unseal_key});
	wait_for("OpenBao $self->{name} to be active", sub { ($self->cli_output('token', 'lookup'))[0] == 0 });
	return;
}


# (status, stdout, stderr) of the server's own client, as root
sub cli_output
{
	my ($self, @args) = @_;
	local $ENV{BAO_ADDR}   = ($self->{tls} ? 'https' : 'http') . "://$self->{host_port}";
	local $ENV{BAO_CACERT} = $self->ca_file if $self->{tls};
	local $ENV{BAO_CLIENT_CERT} = $self->{client}{cert} if $self->{client};
	local $ENV{BAO_CLIENT_KEY}  = $self->{client}{key} if $self->{client};
	local $ENV{BAO_TOKEN}  = -e $self->{token_file} ? slurp_file($self->{token_file}) =~ s/\s+//gr : '';
	local $ENV{HOME}       = $self->{dir};
	my ($out, $err) = ('', '');
	IPC::Run::run([ $ENV{WALCRYPT_BAO}, @args ], '<', \undef, '>', \$out, '2>', \$err);
	return ($? >> 8, $out, $err);
}

sub cli
{
	my ($self, @args) = @_;
	my ($rc, $out, $err) = $self->cli_output(@args);
	die "bao @args failed with $rc: $err" if $rc != 0;
	return $out;
}

# An engine or a login method at a path; on a server that is not ours, or that several tests share, it may be there already.
sub enable
{
	my ($self, $path, $kind, $type, @more) = @_;
	my ($rc, $out, $err) = $self->cli_output($kind, 'enable', "-path=$path", @more, $type);
	die "bao $kind enable $path failed with $rc: $err" if $rc != 0 && $err !~ /path is already in use/;
	return;
}

sub policy
{
	my ($self, $name, $policy) = @_;
	open(my $f, '>', "$self->{dir}/$name.hcl") or die;
	print $f $policy;
	close $f;
	$self->cli('policy', 'write', $name, "$self->{dir}/$name.hcl");
	return;
}

# A transit key "walcrypt", and the AppRole role "proxy", with these options, whose tokens may wrap and unwrap by it. The role's id.
sub transit_role
{
	my ($self, @options) = @_;
	$self->enable('transit', 'secrets', 'transit');
	$self->cli(qw(write -f transit/keys/walcrypt));
	$self->enable('approle', 'auth', 'approle');
	$self->policy('walcrypt', join('', map { qq(path "transit/$_->[0]/walcrypt" { capabilities = ["$_->[1]"] }\n) } [ encrypt => 'update' ], [ decrypt => 'update' ], [ keys => 'read' ]));
	$self->cli(qw(write auth/approle/role/proxy token_policies=walcrypt), @options);
	return $self->role_id;
}

sub role_id   { my ($self) = @_; return decode_json($self->cli(qw(read -format=json auth/approle/role/proxy/role-id)))->{data}{role_id}; }
sub secret_id { my ($self) = @_; return decode_json($self->cli(qw(write -f -format=json auth/approle/role/proxy/secret-id)))->{data}{secret_id}; }

# A token that may do these things; its text. Options of "token create", -ttl=5s say.
sub token_for
{
	my ($self, $name, $policy, @options) = @_;
	$self->policy($name, $policy);
	return decode_json($self->cli('token', 'create', "-policy=$name", '-format=json', @options))->{auth}{client_token};
}

# From its next start on. The server's own client then shows one, too.
sub require_client_certificates
{
	my ($self, $ca) = @_;
	my $conf = slurp_file("$self->{dir}/bao.hcl");
	$conf =~ s/^( tls_key_file = ".*")/$1\n tls_require_and_verify_client_cert = true\n tls_client_ca_file = "$ca"/m or die;
	open(my $f, '>', "$self->{dir}/bao.hcl") or die;
	print $f $conf;
	close $f;
	return;
}

1;

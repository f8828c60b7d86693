# A plain primary, "red", and its encrypted standby, "blue", both running, behind a proxy that has conninfo and datadir of both: where a
# switchover begins.
#
#   my ($proxy, %node) = red_and_blue("wal_keep_size = 256MB\n");
#   fill => sub { my ($red) = @_; ... }      before blue is built
#   settings => { ... }                      of the proxy
#   red => { ... }                           more of red's section of the proxy's configuration
#   others => { green => { ... } }           sections beside the two; the keysets of all are made
#   blue_conf => "..."                       of blue alone
#   follow_later($proxy, $node{red});      started as a standby some day, it finds the proxy
use strict;
use warnings;

package Walcrypt::Pair;

use Exporter 'import';
use Walcrypt;

our @EXPORT = qw(red_and_blue follow_later);

sub red_and_blue
{
	my ($conf, %o) = @_;
	my ($red, $blue) = map { Walcrypt::Node->new($_) } qw(red blue);
	$red->init(allows_streaming => 1, extra => ['-k']);
	$red->append_conf('postgresql.conf', $conf);
	$red->start;
	$o{fill}->($red) if $o{fill};
	my $proxy = Walcrypt::Proxy->new(settings => $o{settings} // {}, nodes => {
		red => { conninfo => $red->connstr_for_proxy, datadir => $red->data_dir, allow_clear => 'on', %{ $o{red} // {} } },
		blue => { conninfo => $blue->connstr_for_proxy, datadir => $blue->data_dir, keyset => 'blue' },
		%{ $o{others} // {} } });
	$proxy->key_init($_) for 'blue', sort keys %{ $o{others} // {} };
	$proxy->start;
	$blue->init_from_proxy($proxy, 'blue');
	$blue->append_conf('postgresql.conf', $o{blue_conf} // '');
	$blue->start;
	return ($proxy, red => $red, blue => $blue);
}

sub follow_later
{
	my ($proxy, $node) = @_;
	my $name = $node->name;
	$node->append_conf('postgresql.auto.conf', "primary_conninfo = '" . $proxy->connstr($name) . " application_name=$name'\n");
	return;
}

1;

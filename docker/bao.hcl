# OpenBao sets itself up at its first start by the "initialize" blocks below: no root token is left, and nobody has to unseal it. Logins go
# by the certificates of the identities (docker/identities); each may do what its policy says with the transit keys that wrap cluster keys.
storage "raft" {
  path                   = "/var/lib/openbao"
  node_id                = "openbao"
  performance_multiplier = 1
}
seal "static" {
  current_key_id = "1"
  current_key    = "file:///etc/openbao/id/seal.key"
}
listener "tcp" {
  address         = "0.0.0.0:8200"
  tls_cert_file   = "/etc/openbao/id/id.crt"
  tls_key_file    = "/etc/openbao/id/id.key"
  tls_min_version = "tls13"
}
api_addr     = "https://openbao:8200"
cluster_addr = "https://127.0.0.1:8201"

initialize "engines" {
  request "transit" {
    operation = "update"
    path      = "sys/mounts/transit"
    data      = { type = "transit" }
  }
  request "certificates" {
    operation = "update"
    path      = "sys/auth/cert"
    data      = { type = "cert" }
  }
}

initialize "keys" {
  request "blue" {
    operation = "update"
    path      = "transit/keys/blue"
    data      = {}
  }
  request "green" {
    operation = "update"
    path      = "transit/keys/green"
    data      = {}
  }
  request "archive" {
    operation = "update"
    path      = "transit/keys/archive"
    data      = {}
  }
}

# a standby opens its own keyset, and wraps it when it takes a new epoch, and no other; the proxy opens all of them; the operator makes them, too
initialize "policies" {
  request "blue" {
    operation = "update"
    path      = "sys/policies/acl/blue"
    data = {
      policy = <<-EOT
        path "transit/decrypt/blue" { capabilities = ["update"] }
        path "transit/encrypt/blue" { capabilities = ["update"] }
        path "transit/keys/blue" { capabilities = ["read"] }
      EOT
    }
  }
  request "green" {
    operation = "update"
    path      = "sys/policies/acl/green"
    data = {
      policy = <<-EOT
        path "transit/decrypt/green" { capabilities = ["update"] }
        path "transit/encrypt/green" { capabilities = ["update"] }
        path "transit/keys/green" { capabilities = ["read"] }
      EOT
    }
  }
  request "proxy" {
    operation = "update"
    path      = "sys/policies/acl/proxy"
    data      = { policy = "path \"transit/decrypt/*\" { capabilities = [\"update\"] }" }
  }
  request "operator" {
    operation = "update"
    path      = "sys/policies/acl/operator"
    data = {
      policy = <<-EOT
        path "transit/decrypt/*" { capabilities = ["update"] }
        path "transit/encrypt/*" { capabilities = ["update"] }
        path "transit/keys/*" { capabilities = ["read"] }
      EOT
    }
  }
}

initialize "logins" {
  request "blue" {
    operation = "update"
    path      = "auth/cert/certs/blue"
    data = {
      allowed_common_names = ["blue"]
      token_policies       = ["blue"]
      token_ttl            = "1h"
      certificate          = { eval_source = "file", eval_type = "string", path = "/etc/openbao/id/ca.crt" }
    }
  }
  request "green" {
    operation = "update"
    path      = "auth/cert/certs/green"
    data = {
      allowed_common_names = ["green"]
      token_policies       = ["green"]
      token_ttl            = "1h"
      certificate          = { eval_source = "file", eval_type = "string", path = "/etc/openbao/id/ca.crt" }
    }
  }
  request "proxy" {
    operation = "update"
    path      = "auth/cert/certs/proxy"
    data = {
      allowed_common_names = ["proxy"]
      token_policies       = ["proxy"]
      token_ttl            = "1h"
      certificate          = { eval_source = "file", eval_type = "string", path = "/etc/openbao/id/ca.crt" }
    }
  }
  request "operator" {
    operation = "update"
    path      = "auth/cert/certs/operator"
    data = {
      allowed_common_names = ["operator"]
      token_policies       = ["operator"]
      token_ttl            = "1h"
      certificate          = { eval_source = "file", eval_type = "string", path = "/etc/openbao/id/ca.crt" }
    }
  }
}
